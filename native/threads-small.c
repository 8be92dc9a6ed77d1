/*
 * What the engine asks of threads, for a program that has one: 4 kB of a router's flash. Atomics.wait(), which would wait
 * for another thread, is not for a main thread anyway, and nothing of ours calls it.
 */
#include <errno.h>
#include <pthread.h>

int pthread_mutex_lock(pthread_mutex_t *mutex __attribute__((unused)))
{
	return 0;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex __attribute__((unused)))
{
	return 0;
}

int pthread_cond_init(pthread_cond_t *restrict cond __attribute__((unused)),
		      const pthread_condattr_t *restrict attributes __attribute__((unused)))
{
	return 0;
}

int pthread_cond_destroy(pthread_cond_t *cond __attribute__((unused)))
{
	return 0;
}

int pthread_cond_signal(pthread_cond_t *cond __attribute__((unused)))
{
	return 0;
}

int pthread_cond_wait(pthread_cond_t *restrict cond __attribute__((unused)),
		      pthread_mutex_t *restrict mutex __attribute__((unused)))
{
	return 0;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond __attribute__((unused)),
			   pthread_mutex_t *restrict mutex __attribute__((unused)),
			   const struct timespec *restrict until __attribute__((unused)))
{
	return ETIMEDOUT;
}
