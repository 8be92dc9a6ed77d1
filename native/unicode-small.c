/*
 * The engine's Unicode tables without those that only \p{...} in a regular expression reads: 22 kB of a router's flash.
 * Nothing of ours has such an expression; one would be a SyntaxError, "unknown unicode script".
 *
 * The engine's file is compiled as it is, and what stands for the three functions that read these tables makes the
 * linker drop the tables.
 */
#define unicode_script unused_unicode_script
#define unicode_general_category unused_unicode_general_category
#define unicode_prop unused_unicode_prop
#include "libunicode.c"
#undef unicode_script
#undef unicode_general_category
#undef unicode_prop

#define NOT_FOUND (-2)

int unicode_script(CharRange *range __attribute__((unused)), const char *name __attribute__((unused)),
		   BOOL extensions __attribute__((unused)))
{
	return NOT_FOUND;
}

int unicode_general_category(CharRange *range __attribute__((unused)), const char *name __attribute__((unused)))
{
	return NOT_FOUND;
}

int unicode_prop(CharRange *range __attribute__((unused)), const char *name __attribute__((unused)))
{
	return NOT_FOUND;
}
