/*
 * What a file of bytecode begins with. Bytecode of another engine, or of another byte order, would take the engine
 * down, so the first line has to be this one exactly; the engine's own bytes follow.
 */
#ifndef MASQD_BYTECODE_H
#define MASQD_BYTECODE_H

#include <stddef.h>
#include <string.h>

#define BYTECODE_MARK "masqd bytecode"
#define BYTECODE_LITTLE_ENDIAN BYTECODE_MARK ", quickjs-" CONFIG_VERSION ", little-endian\n"
#define BYTECODE_BIG_ENDIAN BYTECODE_MARK ", quickjs-" CONFIG_VERSION ", big-endian\n"

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define BYTECODE_HEADER BYTECODE_BIG_ENDIAN
#define BYTECODE_OTHER BYTECODE_LITTLE_ENDIAN
#else
#define BYTECODE_HEADER BYTECODE_LITTLE_ENDIAN
#define BYTECODE_OTHER BYTECODE_BIG_ENDIAN
#endif

/*
 * What bundles end with, as text and as bytecode: a line that those of one build have in common and no others. Without
 * it a bundle is of no build, as those of tests are.
 */
#define BUILD_MARK "//# masqd "
#define BUILD_DIGITS 16
#define BUILD_LENGTH (sizeof BUILD_MARK - 1 + BUILD_DIGITS + 1)

/* The line at the end of a file, BUILD_LENGTH bytes, or NULL. */
static inline const char *build_line(const char *file, size_t length)
{
	const char *line = length < BUILD_LENGTH ? NULL : file + length - BUILD_LENGTH;

	return line && memcmp(line, BUILD_MARK, sizeof BUILD_MARK - 1) == 0 ? line : NULL;
}

#endif
