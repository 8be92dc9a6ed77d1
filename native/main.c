/*
 * The host: an engine with what the bundles need and no more, the module "masq:native", and the bundle of the command:
 * the daemon's, the tools', or the client's. Daemon and tools import a bundle that they share (bundles.mjs).
 *
 * Bundles are trusted files that the administrator installed. Left out of the engine are proxies, weak references,
 * string normalisation, and the loading of any module from elsewhere than the bundle's folder.
 */
#include "shim.h"

#include "bytecode.h"

#include <fcntl.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef WITHOUT_PARSER
#define BUNDLE_SUFFIX ".qbc"
#else
#define BUNDLE_SUFFIX ".js"
#endif
#define INSTALLED "/usr/share/masqd"

/* Whose bundle is not the client's; with a word where the command is so only with that. */
static const struct {
	const char *command, *word, *bundle;
} bundles[] = {
	{ "run", NULL, "masqd" BUNDLE_SUFFIX },	     { "check", NULL, "tools" BUNDLE_SUFFIX },
	{ "cleanup", NULL, "tools" BUNDLE_SUFFIX },  { "offload", NULL, "tools" BUNDLE_SUFFIX },
	{ "selftest", NULL, "tools" BUNDLE_SUFFIX }, { "help", "config", "tools" BUNDLE_SUFFIX },
};
#define STACK_SIZE (1024 * 1024)

/**
 * open_standard_descriptors() - have 0, 1 and 2 open, so that no socket is ever taken for one of them
 */
static void open_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/**
 * bundle_of() - the bundle that has a command
 * @command: NULL if there is none
 * @word: what follows it, or NULL
 *
 * Return: the name of its file.
 */
static const char *bundle_of(const char *command, const char *word)
{
	size_t n;

	for (n = 0; command && n < sizeof bundles / sizeof *bundles; n++) {
		if (strcmp(command, bundles[n].command) != 0)
			continue;
		if (!bundles[n].word || (word && strcmp(word, bundles[n].word) == 0))
			return bundles[n].bundle;
	}
	return "client" BUNDLE_SUFFIX;
}

/**
 * bundle_path() - where a bundle is: in the folder $MASQD_JS, else beside the executable, else where packages put it
 * @name: the bundle's
 * @path: the result, PATH_MAX bytes
 *
 * $MASQD_JS may also be a file: that one, whatever the name.
 */
static void bundle_path(const char *name, char *path)
{
	const char *set = getenv("MASQD_JS");
	struct stat status;
	ssize_t length;
	char *slash;

	if (set && *set) {
		if (stat(set, &status) == 0 && S_ISDIR(status.st_mode))
			snprintf(path, PATH_MAX, "%s/%s", set, name);
		else
			snprintf(path, PATH_MAX, "%s", set);
		return;
	}
	length = readlink("/proc/self/exe", path, PATH_MAX - 32);
	if (length > 0) {
		path[length] = 0;
		slash = strrchr(path, '/');
		if (slash) {
			strcpy(slash + 1, name);
			if (access(path, F_OK) == 0)
				return;
		}
	}
	snprintf(path, PATH_MAX, INSTALLED "/%s", name);
}

/**
 * read_bundle() - the whole bundle, ended by a zero byte
 * @length: its bytes without that one
 *
 * Return: the text, for free(); NULL with errno set.
 */
static char *read_bundle(const char *path, size_t *length)
{
	struct stat status;
	char *text = NULL;
	FILE *file = fopen(path, "re");

	if (!file)
		return NULL;
	if (fstat(fileno(file), &status) == 0) {
		if (S_ISREG(status.st_mode)) {
			text = malloc((size_t)status.st_size + 1);
			if (text) {
				*length = fread(text, 1, (size_t)status.st_size, file);
				text[*length] = 0;
			}
		} else {
			errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
		}
	}
	fclose(file);
	return text;
}

/**
 * print_exception() - an uncaught exception with its stack, on stderr
 */
static void print_exception(JSContext *ctx, JSValueConst exception)
{
	const char *message = JS_ToCString(ctx, exception);
	JSValue stack = JS_IsError(ctx, exception) ? JS_GetPropertyStr(ctx, exception, "stack") : JS_UNDEFINED;
	const char *lines = JS_IsString(stack) ? JS_ToCString(ctx, stack) : NULL;

	fprintf(stderr, "masqd: uncaught exception: %s\n%s", message ? message : "(not printable)", lines ? lines : "");
	JS_FreeCString(ctx, lines);
	JS_FreeCString(ctx, message);
	JS_FreeValue(ctx, stack);
}

/**
 * new_context() - a context with the built-in objects that the bundle uses
 */
static JSContext *new_context(JSRuntime *runtime)
{
	JSContext *ctx = JS_NewContextRaw(runtime);

	if (!ctx)
		return NULL;
	JS_AddIntrinsicBaseObjects(ctx);
#ifndef WITHOUT_PARSER
	JS_AddIntrinsicEval(ctx);
#endif
	JS_AddIntrinsicRegExp(ctx);
	JS_AddIntrinsicJSON(ctx);
	JS_AddIntrinsicMapSet(ctx);
	JS_AddIntrinsicTypedArrays(ctx);
	JS_AddIntrinsicPromise(ctx);
	return ctx;
}

/**
 * load_bytecode() - a module out of a file that native/bytecode.c made
 *
 * Bytecode is trusted like the executable: both come in one package.
 *
 * Return: the module; an exception if the file is of another engine or of another kind.
 */
static JSValue load_bytecode(JSContext *ctx, const char *path, const char *file, size_t length)
{
	size_t header = strlen(BYTECODE_HEADER);

	if (length < header || memcmp(file, BYTECODE_HEADER, header) != 0)
		return JS_ThrowTypeError(ctx, "%s is not bytecode of this program's engine", path);
	return JS_ReadObject(ctx, (const uint8_t *)file + header, length - header, JS_READ_OBJ_BYTECODE);
}

#ifndef WITHOUT_PARSER
static bool is_bytecode(const char *file, size_t length)
{
	return length >= strlen(BYTECODE_MARK) && memcmp(file, BYTECODE_MARK, strlen(BYTECODE_MARK)) == 0;
}

/* What a bundle imports is kept as names; it is not looked at when compiling. */
static int no_exports(JSContext *ctx __attribute__((unused)), JSModuleDef *module __attribute__((unused)))
{
	return 0;
}

static JSModuleDef *any_module(JSContext *ctx, const char *name, void *opaque __attribute__((unused)))
{
	return JS_NewCModule(ctx, name, no_exports);
}

/**
 * compile_bundle() - what native/bytecode.c does at build time, for a bundle that comes as text
 * @file: the bundle, or bytecode; freed
 *
 * The parser leaves memory full of holes, and line numbers are a third of what functions take: the daemon would keep
 * 0.4 MB of both for all its life. So an engine of its own compiles, and the one that runs reads what that one wrote.
 * With MASQD_DEBUG set nothing of this is done, and stack traces have line numbers.
 *
 * Return: bytecode for free(), or what @file was if that is better: it is bytecode, or has an error to be reported.
 */
static char *compile_bundle(const char *path, char *file, size_t *length)
{
	size_t header = strlen(BYTECODE_HEADER), size;
	JSRuntime *runtime;
	JSContext *ctx;
	char *result = file;
	uint8_t *bytes;
	JSValue module;

	if (getenv("MASQD_DEBUG") || is_bytecode(file, *length))
		return file;
	runtime = heap_runtime();
	ctx = runtime ? new_context(runtime) : NULL;
	if (ctx) {
		JS_SetModuleLoaderFunc(runtime, NULL, any_module, NULL);
		JS_SetStripInfo(runtime, JS_STRIP_DEBUG);
		module = JS_Eval(ctx, file, *length, path, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
		bytes = JS_IsException(module) ? NULL : JS_WriteObject(ctx, &size, module, JS_WRITE_OBJ_BYTECODE);
		if (bytes)
			result = malloc(header + size);
		if (bytes && result) {
			memcpy(result, BYTECODE_HEADER, header);
			memcpy(result + header, bytes, size);
			*length = header + size;
			free(file);
		} else {
			result = file;
		}
		js_free(ctx, bytes);
		JS_FreeValue(ctx, module);
	}
	if (ctx)
		JS_FreeContext(ctx);
	if (runtime)
		JS_FreeRuntime(runtime);
	return result;
}
#endif

/**
 * load_bundle() - a bundle as a module that has not run, and whose imports are not resolved
 * @file: the bundle; freed
 *
 * Return: the module, or an exception.
 */
static JSValue load_bundle(JSContext *ctx, const char *path, char *file, size_t length)
{
	JSValue module;

#ifndef WITHOUT_PARSER
	file = compile_bundle(path, file, &length);
	if (!is_bytecode(file, length))
		module = JS_Eval(ctx, file, length, path, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
	else
#endif
		module = load_bytecode(ctx, path, file, length);
	free(file);
	return module;
}

/* The build that the running bundle is of, see bytecode.h; zeros if it is of none. */
static char running_build[BUILD_LENGTH];

/**
 * is_of_build() - whether a bundle is of the build that runs: an upgrade replaces files below a running daemon
 */
static bool is_of_build(const char *file, size_t length)
{
	static const char none[BUILD_LENGTH];
	const char *line = build_line(file, length);

	return memcmp(line ? line : none, running_build, BUILD_LENGTH) == 0;
}

/* The bundle that native_hold_bundle() keeps open, and how it is called. */
static int held = -1;
static char held_name[16];

/**
 * import_bundle() - a bundle that another imports, from its folder
 * @name: as the engine has made it of the import
 * @opaque: path of the other bundle
 */
static JSModuleDef *import_bundle(JSContext *ctx, const char *name, void *opaque)
{
	const char *beside = opaque, *slash = strrchr(beside, '/'), *base = strrchr(name, '/');
	char path[PATH_MAX], open_file[32];
	bool is_held = false;
	JSModuleDef *result;
	JSValue module;
	size_t length;
	char *file;

	base = base ? base + 1 : name;
	snprintf(path, sizeof path, "%.*s%.*s" BUNDLE_SUFFIX, slash ? (int)(slash + 1 - beside) : 0, beside,
		 (int)strcspn(base, "."), base);
	if (held >= 0 && strcmp(base, held_name) == 0) {
		is_held = true;
		snprintf(open_file, sizeof open_file, "/proc/self/fd/%d", held);
	}
	file = read_bundle(is_held ? open_file : path, &length);
	if (!file) {
		JS_ThrowReferenceError(ctx, "cannot read the program %s: %s", path, strerror(errno));
		return NULL;
	}
	if (!is_of_build(file, length)) {
		free(file);
		JS_ThrowReferenceError(ctx, "%s is of another build than the masqd that runs: restart it", path);
		return NULL;
	}
	module = load_bundle(ctx, path, file, length);
	if (JS_IsException(module))
		return NULL;
	result = JS_VALUE_GET_PTR(module);
	/* The context keeps it. */
	JS_FreeValue(ctx, module);
	return result;
}

/**
 * run_bundle() - evaluate the bundle, then what it left pending
 * @module: what load_bundle() gave
 *
 * Return: exit status.
 */
static int run_bundle(JSContext *ctx, const char *path, JSValue module)
{
	JSValue exception, promise = JS_IsException(module) ? module : JS_EvalFunction(ctx, module);
	JSContext *job;
	int result = 1;

	if (!JS_IsException(promise)) {
		do
			result = JS_ExecutePendingJob(JS_GetRuntime(ctx), &job);
		while (result > 0);
		if (result == 0) {
			switch (JS_PromiseState(ctx, promise)) {
			case JS_PROMISE_FULFILLED:
				JS_FreeValue(ctx, promise);
				return 0;
			case JS_PROMISE_REJECTED:
				exception = JS_PromiseResult(ctx, promise);
				print_exception(ctx, exception);
				JS_FreeValue(ctx, exception);
				break;
			default:
				fprintf(stderr, "masqd: %s waits for something that never comes\n", path);
			}
			JS_FreeValue(ctx, promise);
			return 1;
		}
		JS_FreeValue(ctx, promise);
	}
	exception = JS_GetException(ctx);
	print_exception(ctx, exception);
	JS_FreeValue(ctx, exception);
	return 1;
}

/* The bundle that runs. */
static char running[PATH_MAX];

/**
 * bundle_exports() - what a bundle beside the one that runs exports, when it has run
 */
static JSValue bundle_exports(JSContext *ctx, const char *name)
{
	JSModuleDef *module = import_bundle(ctx, name, running);
	JSValue promise, result;

	if (!module || JS_ResolveModule(ctx, JS_MKPTR(JS_TAG_MODULE, module)) < 0)
		return JS_EXCEPTION;
	/* Which it takes; the context keeps the other. */
	promise = JS_EvalFunction(ctx, JS_DupValue(ctx, JS_MKPTR(JS_TAG_MODULE, module)));
	if (JS_IsException(promise))
		return promise;
	if (JS_PromiseState(ctx, promise) == JS_PROMISE_REJECTED)
		result = JS_Throw(ctx, JS_PromiseResult(ctx, promise));
	else
		result = JS_GetModuleNamespace(ctx, module);
	JS_FreeValue(ctx, promise);
	return result;
}

/**
 * native_import_bundle() - a bundle beside the one that runs
 *
 * The engine's own import() asks for the name of the file that it stands in, which stripped bytecode has not.
 *
 * Return: what it exports.
 */
NATIVE(native_import_bundle)
{
	const char *name = argument_string(ctx, argv[0], "name");
	JSValue result;

	if (!name)
		return JS_EXCEPTION;
	result = bundle_exports(ctx, name);
	JS_FreeCString(ctx, name);
	return result;
}

/**
 * native_hold_bundle() - keep the file of a bundle open that has not been wanted yet
 *
 * native_import_bundle() finds what it was when the program began, whatever has come in its place.
 */
NATIVE(native_hold_bundle)
{
	const char *name = argument_string(ctx, argv[0], "name"), *slash = strrchr(running, '/');
	char path[PATH_MAX];

	if (!name)
		return JS_EXCEPTION;
	snprintf(path, sizeof path, "%.*s%s" BUNDLE_SUFFIX, slash ? (int)(slash + 1 - running) : 0, running, name);
	snprintf(held_name, sizeof held_name, "%s", name);
	JS_FreeCString(ctx, name);
	held = open(path, O_RDONLY | O_CLOEXEC);
	return held < 0 ? throw_errno(ctx, errno, "open", "%s", path) : JS_UNDEFINED;
}

/**
 * ask_bundle() - what the function "answer" of a bundle returns for a question
 * @ctx: of an engine that has nothing yet
 */
static JSValue ask_bundle(JSContext *ctx, const char *name, const char *question, size_t length)
{
	JSValue exports = bundle_exports(ctx, name), function, argument, result;

	if (JS_IsException(exports))
		return exports;
	function = JS_GetPropertyStr(ctx, exports, "answer");
	argument = JS_NewStringLen(ctx, question, length);
	result = JS_Call(ctx, function, JS_UNDEFINED, 1, &argument);
	JS_FreeValue(ctx, argument);
	JS_FreeValue(ctx, function);
	JS_FreeValue(ctx, exports);
	return result;
}

/**
 * native_ask() - ask a bundle in an engine of its own, which is gone afterwards
 *
 * Return: its answer, a string.
 */
NATIVE(native_ask)
{
	const char *name = argument_string(ctx, argv[0], "name"), *question = NULL, *text = NULL;
	JSRuntime *runtime = NULL;
	JSContext *other = NULL;
	JSValue answer, exception, result = JS_EXCEPTION;
	size_t length;

	if (!name)
		return JS_EXCEPTION;
	question = JS_ToCStringLen(ctx, &length, argv[1]);
	if (question) {
		runtime = heap_runtime();
		other = runtime ? new_context(runtime) : NULL;
		if (!other)
			JS_ThrowOutOfMemory(ctx);
	}
	if (other) {
		JS_SetMaxStackSize(runtime, STACK_SIZE);
		JS_SetStripInfo(runtime, JS_STRIP_SOURCE);
		JS_SetModuleLoaderFunc(runtime, NULL, import_bundle, running);
		answer = ask_bundle(other, name, question, length);
		if (JS_IsException(answer)) {
			exception = JS_GetException(other);
			answer = JS_GetPropertyStr(other, exception, "message");
			JS_FreeValue(other, exception);
			text = JS_ToCString(other, answer);
			JS_ThrowInternalError(ctx, "%s: %s", name, text ? text : "(not printable)");
		} else {
			text = JS_ToCStringLen(other, &length, answer);
			if (text)
				result = JS_NewStringLen(ctx, text, length);
			else
				JS_ThrowInternalError(ctx, "%s: no answer", name);
		}
		JS_FreeCString(other, text);
		JS_FreeValue(other, answer);
		JS_FreeContext(other);
	}
	if (runtime)
		JS_FreeRuntime(runtime);
	JS_FreeCString(ctx, question);
	JS_FreeCString(ctx, name);
	return result;
}

/* Where programs are looked for if nobody says so. */
#define PATH_DEFAULT "/usr/sbin:/usr/bin:/sbin:/bin"

/**
 * main() - run the bundle
 *
 * Return: 0 when it came to its end, 1 for an uncaught exception or a bundle that cannot be read. The bundle itself
 * ends with any status by exit().
 */
int main(int argc, char **argv)
{
	JSRuntime *runtime;
	JSContext *ctx;
	JSValue module;
	const char *build;
	size_t length;
	char *file;
	int status;

	open_standard_descriptors();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	process_arguments(argc, argv);
	/* OpenWrt's jail starts programs with an empty environment, and libc's own list has no sbin. */
	if (!getenv("PATH") || !*getenv("PATH"))
		setenv("PATH", PATH_DEFAULT, 1);

	bundle_path(bundle_of(argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : NULL), running);
	file = read_bundle(running, &length);
	if (!file) {
		fprintf(stderr, "masqd: cannot read the program %s: %s\n", running, strerror(errno));
		return 1;
	}
	build = build_line(file, length);
	if (build)
		memcpy(running_build, build, BUILD_LENGTH);
	runtime = heap_runtime();
	ctx = runtime ? new_context(runtime) : NULL;
	if (!ctx || !native_module(ctx)) {
		fprintf(stderr, "masqd: no memory for the engine\n");
		return 1;
	}
	JS_SetMaxStackSize(runtime, STACK_SIZE);
	/* The engine would keep the whole text for Function.prototype.toString(), which nothing calls. */
	JS_SetStripInfo(runtime, JS_STRIP_SOURCE);
	JS_SetModuleLoaderFunc(runtime, NULL, import_bundle, running);
	/* The files are freed before the bundle runs: the daemon never comes back from there. */
	module = load_bundle(ctx, running, file, length);
	if (!JS_IsException(module) && JS_ResolveModule(ctx, module) < 0) {
		JS_FreeValue(ctx, module);
		module = JS_EXCEPTION;
	}
#ifdef __GLIBC__
	malloc_trim(0);
#endif
	status = run_bundle(ctx, running, module);
	frames_forget(ctx);
	JS_FreeContext(ctx);
	JS_FreeRuntime(runtime);
	return status;
}
