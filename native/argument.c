/*
 * Arguments as they come from TypeScript: of the declared type and inside their range, or an exception before any
 * system call is made. Nothing is converted: an undefined descriptor must not become descriptor 0.
 */
#include "shim.h"

#include <inttypes.h>
#include <math.h>

/**
 * argument_number() - an integer argument of up to 53 bits
 * @name: parameter's name, for the message
 * @least: least value allowed
 * @most: greatest value allowed
 * @number: result
 *
 * Return: 0, or -1 with a TypeError (not a number) or RangeError (not an integer, or outside) pending.
 */
int argument_number(JSContext *ctx, JSValueConst value, const char *name, int64_t least, int64_t most, int64_t *number)
{
	double wide;

	if (!JS_IsNumber(value)) {
		JS_ThrowTypeError(ctx, "%s: not a number", name);
		return -1;
	}
	if (JS_ToFloat64(ctx, &wide, value) < 0)
		return -1;
	if (!(wide >= (double)least && wide <= (double)most) || wide != floor(wide)) {
		JS_ThrowRangeError(ctx, "%s: not an integer from %" PRId64 " to %" PRId64, name, least, most);
		return -1;
	}
	*number = (int64_t)wide;
	return 0;
}

/**
 * argument_string() - a string argument as the kernel takes it: UTF-8, ended by a zero byte, none inside
 * @name: parameter's name, for the message
 *
 * Return: the string, for JS_FreeCString(); NULL with a TypeError or RangeError pending.
 */
const char *argument_string(JSContext *ctx, JSValueConst value, const char *name)
{
	const char *string;
	size_t length;

	if (!JS_IsString(value)) {
		JS_ThrowTypeError(ctx, "%s: not a string", name);
		return NULL;
	}
	string = JS_ToCStringLen(ctx, &length, value);
	if (string && memchr(string, 0, length)) {
		JS_FreeCString(ctx, string);
		JS_ThrowRangeError(ctx, "%s: holds a zero byte", name);
		return NULL;
	}
	return string;
}

/**
 * argument_bytes() - the range [offset, offset + length) of an ArrayBuffer
 * @bytes: first byte of the range; good until TypeScript runs again
 * @count: its length
 *
 * Return: 0, or -1 with a TypeError or RangeError pending.
 */
int argument_bytes(JSContext *ctx, JSValueConst buffer, JSValueConst offset, JSValueConst length, uint8_t **bytes,
		   size_t *count)
{
	int64_t from, number;
	size_t size;
	uint8_t *base = JS_GetArrayBuffer(ctx, &size, buffer);

	if (!base)
		return -1;
	if (argument_number(ctx, offset, "offset", 0, (int64_t)size, &from) < 0 ||
	    argument_number(ctx, length, "length", 0, (int64_t)size - from, &number) < 0)
		return -1;
	*bytes = base + from;
	*count = (size_t)number;
	return 0;
}

/**
 * argument_words() - the elements of an Int32Array
 * @name: parameter's name, for the message
 * @words: first element; good until TypeScript runs again, longer only if the array is kept alive
 * @count: number of elements
 *
 * Return: 0, or -1 with a TypeError pending.
 */
int argument_words(JSContext *ctx, JSValueConst value, const char *name, int32_t **words, size_t *count)
{
	size_t offset, length, element, size;
	uint8_t *base;
	JSValue buffer = JS_GetTypedArrayBuffer(ctx, value, &offset, &length, &element);

	if (JS_IsException(buffer))
		return -1;
	base = JS_GetArrayBuffer(ctx, &size, buffer);
	JS_FreeValue(ctx, buffer);
	if (!base)
		return -1;
	if (element != sizeof **words) {
		JS_ThrowTypeError(ctx, "%s: not an Int32Array", name);
		return -1;
	}
	*words = (int32_t *)(void *)(base + offset);
	*count = length / sizeof **words;
	return 0;
}

/**
 * argument_numbers() - the elements of an ordinary array of integers
 * @name: parameter's name, for the message
 * @least: least value allowed
 * @most: greatest value allowed
 * @numbers: result
 * @capacity: most elements allowed
 *
 * Return: number of elements, or -1 with a TypeError or RangeError pending.
 */
int argument_numbers(JSContext *ctx, JSValueConst array, const char *name, int32_t least, int32_t most,
		     int32_t *numbers, int capacity)
{
	int32_t length;
	JSValue value;
	int result;

	if (JS_IsArray(ctx, array) != 1) {
		JS_ThrowTypeError(ctx, "%s: not an array", name);
		return -1;
	}
	value = JS_GetPropertyStr(ctx, array, "length");
	result = argument_int(ctx, value, name, 0, capacity, &length);
	JS_FreeValue(ctx, value);
	if (result < 0)
		return -1;
	for (int32_t i = 0; i < length; i++) {
		value = JS_GetPropertyUint32(ctx, array, (uint32_t)i);
		result = argument_int(ctx, value, name, least, most, &numbers[i]);
		JS_FreeValue(ctx, value);
		if (result < 0)
			return -1;
	}
	return length;
}
