/*
 * The error that every failed system call throws: an Error with errno and code.
 *
 * The names are a table because only one C library can name an errno, and their order is the same on no two machines.
 */
#include "shim.h"

#include <stdarg.h>
#include <stdio.h>

/* A table of words, filled line by line. */
/* clang-format off */
#define NAME(symbol) { symbol, #symbol }

static const struct {
	int number;
	const char *name;
} names[] = {
	NAME(E2BIG), NAME(EACCES), NAME(EADDRINUSE), NAME(EADDRNOTAVAIL), NAME(EAFNOSUPPORT), NAME(EAGAIN), NAME(EALREADY),
	NAME(EBADF), NAME(EBADFD), NAME(EBADMSG), NAME(EBUSY), NAME(ECANCELED), NAME(ECHILD), NAME(ECONNABORTED),
	NAME(ECONNREFUSED), NAME(ECONNRESET), NAME(EDEADLK), NAME(EDESTADDRREQ), NAME(EDOM), NAME(EDQUOT), NAME(EEXIST),
	NAME(EFAULT), NAME(EFBIG), NAME(EHOSTDOWN), NAME(EHOSTUNREACH), NAME(EILSEQ), NAME(EINPROGRESS), NAME(EINTR),
	NAME(EINVAL), NAME(EIO), NAME(EISCONN), NAME(EISDIR), NAME(ELOOP), NAME(EMFILE), NAME(EMLINK), NAME(EMSGSIZE),
	NAME(ENAMETOOLONG), NAME(ENETDOWN), NAME(ENETRESET), NAME(ENETUNREACH), NAME(ENFILE), NAME(ENOBUFS), NAME(ENODATA),
	NAME(ENODEV), NAME(ENOENT), NAME(ENOEXEC), NAME(ENOLCK), NAME(ENOLINK), NAME(ENOMEM), NAME(ENOPROTOOPT), NAME(ENOSPC),
	NAME(ENOSYS), NAME(ENOTCONN), NAME(ENOTDIR), NAME(ENOTEMPTY), NAME(ENOTSOCK), NAME(ENOTTY), NAME(ENXIO),
	NAME(EOPNOTSUPP), NAME(EOVERFLOW), NAME(EPERM), NAME(EPFNOSUPPORT), NAME(EPIPE), NAME(EPROTO),
	NAME(EPROTONOSUPPORT), NAME(EPROTOTYPE), NAME(ERANGE), NAME(EROFS), NAME(ESHUTDOWN), NAME(ESOCKTNOSUPPORT),
	NAME(ESPIPE), NAME(ESRCH), NAME(ESTALE), NAME(ETIME), NAME(ETIMEDOUT), NAME(ETXTBSY), NAME(EUSERS), NAME(EXDEV),
};
/* clang-format on */

/**
 * error_name() - symbolic name of an errno
 *
 * Return: a name such as "ENODEV", "E?" for one that the table does not have.
 */
const char *error_name(int number)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].number == number)
			return names[i].name;
	return "E?";
}

/**
 * throw_errno() - throw what src/native.d.ts calls a NativeError
 * @number: errno of the failed call
 * @call: the system call
 * @what_format: printf format of what it was applied to
 *
 * Return: JS_EXCEPTION, for the caller to return.
 */
JSValue throw_errno(JSContext *ctx, int number, const char *call, const char *what_format, ...)
{
	const int flags = JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE;
	char what[256], message[512];
	JSValue error;
	va_list list;

	va_start(list, what_format);
	vsnprintf(what, sizeof what, what_format, list);
	va_end(list);
	snprintf(message, sizeof message, "%s(%s): %s", call, what, strerror(number));

	error = JS_NewError(ctx);
	if (JS_IsException(error))
		return error;
	JS_DefinePropertyValueStr(ctx, error, "message", text_decode(ctx, (uint8_t *)message, strlen(message)), flags);
	JS_DefinePropertyValueStr(ctx, error, "errno", JS_NewInt32(ctx, number), flags | JS_PROP_ENUMERABLE);
	JS_DefinePropertyValueStr(ctx, error, "code", JS_NewString(ctx, error_name(number)),
				  flags | JS_PROP_ENUMERABLE);
	return JS_Throw(ctx, error);
}
