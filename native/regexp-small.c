/*
 * The engine's regular expressions without their compiler: 20 kB of a router's flash. All of ours are literals, which the bytecode
 * has compiled. What would compile one while running (new RegExp, matchAll, split by an expression) is a SyntaxError; a test
 * looks for it (test/unit/structure.node.test.ts).
 *
 * The engine's file is compiled as it is, and what stands for the compiler makes the linker drop it.
 */
#define lre_compile unused_lre_compile
#include "libregexp.c"
#undef lre_compile

uint8_t *lre_compile(int *length, char *error, int error_size, const char *text __attribute__((unused)),
		     size_t text_length __attribute__((unused)), int flags __attribute__((unused)),
		     void *opaque __attribute__((unused)))
{
	*length = 0;
	if (error_size > 0)
		snprintf(error, (size_t)error_size, "no regular expression is compiled here");
	return NULL;
}
