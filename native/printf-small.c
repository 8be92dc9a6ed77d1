/*
 * The C library's vfprintf(), on which all of its family stands, without what nothing here prints: numbers with a
 * point, and characters of more than a byte. With them comes the arithmetic of long double: 8 to 14 kB of a router's flash.
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/**
 * struct printer - what has been printed
 * @buffer: bytes not handed on yet, so that an unbuffered file gets a line at once
 */
struct printer {
	FILE *file;
	size_t held;
	int count;
	char buffer[256];
};

static void hand_on(struct printer *p)
{
	fwrite(p->buffer, 1, p->held, p->file);
	p->held = 0;
}

static void put(struct printer *p, char byte)
{
	if (p->held == sizeof p->buffer)
		hand_on(p);
	p->buffer[p->held++] = byte;
	p->count++;
}

static void pad(struct printer *p, char byte, int count)
{
	while (count-- > 0)
		put(p, byte);
}

/* A number in the format, or an argument in its place. */
#define NUMBER(value)                                                 \
	do {                                                          \
		value = 0;                                            \
		if (*format == '*') {                                 \
			value = va_arg(arguments, int);               \
			format++;                                     \
		} else {                                              \
			while (*format >= '0' && *format <= '9')      \
				value = value * 10 + *format++ - '0'; \
		}                                                     \
	} while (0)

int vfprintf(FILE *restrict file, const char *restrict format, va_list arguments)
{
	struct printer p = { .file = file };

	for (; *format; format++) {
		int left = 0, zero = 0, width, precision = -1, size = 0, sign = 0, base = 10;
		char digits[sizeof(uintmax_t) * 3], letter = 'a' - 10;
		const char *text = digits;
		int length = 0, zeros = 0;
		uintmax_t value;

		if (*format != '%') {
			put(&p, *format);
			continue;
		}
		for (format++; *format == '-' || *format == '0'; format++) {
			left |= *format == '-';
			zero |= *format == '0';
		}
		NUMBER(width);
		if (width < 0) {
			left = 1;
			width = -width;
		}
		if (*format == '.') {
			format++;
			NUMBER(precision);
		}
		for (; strchr("hlzjt", *format) && *format; format++)
			size += *format == 'h'	 ? -1
				: *format == 'l' ? 1
				: *format == 'j' ? 2
						 : sizeof(size_t) > sizeof(int);
		switch (*format) {
		case 'X':
			letter = 'A' - 10;
			/* fall through */
		case 'x':
			base = 16;
			/* fall through */
		case 'd':
		case 'i':
		case 'u':
			if (size > 1)
				value = va_arg(arguments, unsigned long long);
			else if (size == 1)
				value = base == 16 || *format == 'u' ? va_arg(arguments, unsigned long)
								     : (uintmax_t)va_arg(arguments, long);
			else
				value = base == 16 || *format == 'u' ? va_arg(arguments, unsigned int)
								     : (uintmax_t)va_arg(arguments, int);
			if (*format == 'd' || *format == 'i') {
				sign = (intmax_t)value < 0;
				value = sign ? -value : value;
			}
			for (text = digits + sizeof digits; value || (text == digits + sizeof digits && precision);
			     value /= base) {
				int digit = value % base;

				*(char *)--text = digit < 10 ? '0' + digit : letter + digit;
			}
			length = digits + sizeof digits - text;
			zeros = precision >= 0 ? precision - length : zero && !left ? width - length - sign : 0;
			break;
		case 'c':
			digits[0] = va_arg(arguments, int);
			length = 1;
			break;
		case 's':
			text = va_arg(arguments, const char *);
			text = text ? text : "(null)";
			length = precision >= 0 ? strnlen(text, precision) : strlen(text);
			break;
		case 'n':
			*va_arg(arguments, int *) = p.count;
			break;
		case '%':
			text = format;
			length = 1;
			break;
		default:
			/* Nothing of ours has another. */
			text = "?";
			length = 1;
		}
		zeros = zeros > 0 ? zeros : 0;
		if (!left)
			pad(&p, ' ', width - length - zeros - sign);
		pad(&p, '-', sign);
		pad(&p, '0', zeros);
		for (int n = 0; n < length; n++)
			put(&p, text[n]);
		if (left)
			pad(&p, ' ', width - length - zeros - sign);
	}
	hand_on(&p);
	return ferror(file) ? -1 : p.count;
}
