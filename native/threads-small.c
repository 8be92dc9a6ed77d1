/*
 * What engine and C library ask of threads, for a program that has one: 12 kB of a router's flash. Atomics.wait(),
 * which would wait for another thread, is not for a main thread anyway, and nothing of ours calls it; timer_create()
 * makes a thread for a timer that calls a function, and ours sends a signal.
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

int pthread_create(pthread_t *restrict thread __attribute__((unused)),
		   const pthread_attr_t *restrict attributes __attribute__((unused)),
		   void *(*begin)(void *)__attribute__((unused)), void *restrict argument __attribute__((unused)))
{
	return EAGAIN;
}

int pthread_barrier_init(pthread_barrier_t *restrict barrier __attribute__((unused)),
			 const pthread_barrierattr_t *restrict attributes __attribute__((unused)),
			 unsigned int count __attribute__((unused)))
{
	return 0;
}

int pthread_barrier_wait(pthread_barrier_t *barrier __attribute__((unused)))
{
	return 0;
}
