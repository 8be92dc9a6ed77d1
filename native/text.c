/*
 * Text between the engine (UTF-16, lone surrogates allowed) and everything outside (UTF-8).
 *
 * The engine's own conversion lets encoded surrogates through and swallows a good byte after a bad one, so bytes from
 * outside are made good first: each maximal run of bytes that starts a character and cannot finish it becomes one
 * U+FFFD, as the Encoding standard of the web has it.
 */
#include "shim.h"

static const uint8_t replacement[3] = { 0xef, 0xbf, 0xbd };

/**
 * character_length() - look at the start of some UTF-8
 * @bytes: at least one byte
 * @left: bytes that are there
 * @good: whether they start with a whole character
 *
 * Return: length of that character, or of the run that has to be replaced.
 */
static size_t character_length(const uint8_t *bytes, size_t left, bool *good)
{
	uint8_t lead = bytes[0], least = 0x80, most = 0xbf;
	size_t length, i;

	*good = true;
	if (lead < 0x80)
		return 1;
	*good = false;
	if (lead < 0xc2 || lead > 0xf4)
		return 1;
	length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
	if (lead == 0xe0)
		least = 0xa0;
	else if (lead == 0xed)
		most = 0x9f;
	else if (lead == 0xf0)
		least = 0x90;
	else if (lead == 0xf4)
		most = 0x8f;
	for (i = 1; i < length; i++) {
		if (i == left || bytes[i] < least || bytes[i] > most)
			return i;
		least = 0x80;
		most = 0xbf;
	}
	*good = true;
	return length;
}

/**
 * text_decode() - a string from UTF-8 bytes
 *
 * Return: the string; bytes that are not UTF-8 are U+FFFD in it.
 */
JSValue text_decode(JSContext *ctx, const uint8_t *bytes, size_t length)
{
	size_t at, step, bad = 0, used = 0;
	uint8_t *copy;
	JSValue text;
	bool good;

	for (at = 0; at < length; at += step) {
		step = character_length(bytes + at, length - at, &good);
		bad += !good;
	}
	if (!bad)
		return JS_NewStringLen(ctx, (const char *)bytes, length);
	copy = js_malloc(ctx, length + bad * sizeof replacement);
	if (!copy)
		return JS_EXCEPTION;
	for (at = 0; at < length; at += step) {
		step = character_length(bytes + at, length - at, &good);
		if (good) {
			memcpy(copy + used, bytes + at, step);
			used += step;
		} else {
			memcpy(copy + used, replacement, sizeof replacement);
			used += sizeof replacement;
		}
	}
	text = JS_NewStringLen(ctx, (const char *)copy, used);
	js_free(ctx, copy);
	return text;
}

/**
 * text_encode() - UTF-8 bytes of a string
 * @length: number of bytes
 *
 * A lone surrogate becomes U+FFFD, which is as long.
 *
 * Return: the bytes, for js_free(); NULL with an exception pending.
 */
char *text_encode(JSContext *ctx, JSValueConst text, size_t *length)
{
	const char *string;
	char *copy;

	if (!JS_IsString(text)) {
		JS_ThrowTypeError(ctx, "text: not a string");
		return NULL;
	}
	string = JS_ToCStringLen(ctx, length, text);
	if (!string)
		return NULL;
	copy = js_malloc(ctx, *length + 1);
	if (copy) {
		memcpy(copy, string, *length + 1);
		for (size_t i = 0; i + 2 < *length; i++)
			if ((uint8_t)copy[i] == 0xed && (uint8_t)copy[i + 1] >= 0xa0)
				memcpy(copy + i, replacement, sizeof replacement);
	}
	JS_FreeCString(ctx, string);
	return copy;
}
