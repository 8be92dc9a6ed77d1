/*
 * The compiler of the bundle: TypeScript's bundle in, bytecode for the engine of a router out, which has no parser.
 *
 *   bytecode BUNDLE.js OUTPUT           for routers of this machine's byte order
 *   bytecode-swapped BUNDLE.js OUTPUT   for those of the other one
 *
 * Runs at build time on the build machine and is no part of masqd. The engine writes its own bytecode in one byte
 * order and swaps it as it reads; only compiled regular expressions are in the order of the machine that runs them,
 * so bytecode-swapped is this file linked with regexp-swapped.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytecode.h"
#include "quickjs.h"

#ifdef SWAPPED
#define HEADER BYTECODE_OTHER
#else
#define HEADER BYTECODE_HEADER
#endif

static char *read_all(const char *path, size_t *length)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	long size;

	if (!file)
		return NULL;
	if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0) {
		rewind(file);
		text = malloc((size_t)size + 1);
		if (text) {
			*length = fread(text, 1, (size_t)size, file);
			text[*length] = 0;
		}
	}
	fclose(file);
	return text;
}

static int write_all(const char *path, const uint8_t *bytes, size_t length, const char *build)
{
	FILE *file = fopen(path, "we");
	int good;

	if (!file)
		return 0;
	good = fputs(HEADER, file) >= 0 && fwrite(bytes, 1, length, file) == length &&
	       (!build || fwrite(build, 1, BUILD_LENGTH, file) == BUILD_LENGTH);
	return fclose(file) == 0 && good;
}

/* Names of the modules that a bundle imports are kept as they are; what they hold is not looked at when compiling. */
static int no_exports(JSContext *ctx __attribute__((unused)), JSModuleDef *module __attribute__((unused)))
{
	return 0;
}

static JSModuleDef *any_module(JSContext *ctx, const char *name, void *opaque __attribute__((unused)))
{
	return JS_NewCModule(ctx, name, no_exports);
}

int main(int argc, char **argv)
{
	JSRuntime *runtime = JS_NewRuntime();
	JSContext *ctx = runtime ? JS_NewContext(runtime) : NULL;
	const char *name;
	size_t text_length, length;
	uint8_t *bytes;
	char *text;
	JSValue module;

	if (argc != 3 || !ctx) {
		fprintf(stderr, "usage: %s BUNDLE.js OUTPUT\n", argv[0]);
		return 1;
	}
	text = read_all(argv[1], &text_length);
	if (!text) {
		perror(argv[1]);
		return 1;
	}
	/* Line numbers would take 36 kB of a package of 420; test/tools/trace.mjs finds the functions of a trace by their names. */
	JS_SetStripInfo(runtime, JS_STRIP_DEBUG);
	JS_SetModuleLoaderFunc(runtime, NULL, any_module, NULL);
	name = strrchr(argv[1], '/');
	module = JS_Eval(ctx, text, text_length, name ? name + 1 : argv[1],
			 JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
	if (JS_IsException(module)) {
		fprintf(stderr, "%s: %s\n", argv[1], JS_ToCString(ctx, JS_GetException(ctx)));
		return 1;
	}
	bytes = JS_WriteObject(ctx, &length, module, JS_WRITE_OBJ_BYTECODE);
	if (!bytes || !write_all(argv[2], bytes, length, build_line(text, text_length))) {
		perror(argv[2]);
		return 1;
	}
	return 0;
}
