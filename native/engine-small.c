/*
 * The engine without the built-in functions that nothing of ours calls (engine-unused.h): 45 kB of a router's flash,
 * and as much of its memory. One that is called all the same throws. The engine's file is compiled as it is: its tables
 * of functions are made by macros, which name another function here, and the linker drops what nobody names.
 */
#include "quickjs.h"

#include "engine-unused.h"

#define ABSENT(name, ...)                                                                     \
	static JSValue name(JSContext *ctx, __VA_ARGS__)                                      \
	{                                                                                     \
		return JS_ThrowInternalError(ctx, "this function of the engine is left out"); \
	}

ABSENT(absent, JSValueConst this, int argc, JSValueConst *argv)
ABSENT(absent_magic, JSValueConst this, int argc, JSValueConst *argv, int magic)
ABSENT(absent_getter, JSValueConst this)
ABSENT(absent_getter_magic, JSValueConst this, int magic)
ABSENT(absent_setter, JSValueConst this, JSValueConst value)
ABSENT(absent_setter_magic, JSValueConst this, JSValueConst value, int magic)

/* An entry of engine-unused.h stands for two arguments, so that the third is the one for it. */
#define THIRD(a, b, c, ...) c

#undef JS_CFUNC_DEF
#undef JS_CFUNC_MAGIC_DEF
#undef JS_CGETSET_DEF
#undef JS_CGETSET_MAGIC_DEF
#define METHOD JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE
#define FUNCTION(kind, length, function) .u = { .func = { length, JS_CFUNC_##kind, { .kind = function } } }
#define GETSET(suffix, getter_, setter_) \
	.u = { .getset = { .get = { .getter##suffix = getter_ }, .set = { .setter##suffix = setter_ } } }
#define JS_CFUNC_DEF(name, length, func1)                                                                           \
	{                                                                                                           \
		name, METHOD, JS_DEF_CFUNC, 0, FUNCTION(generic, length, THIRD_OF(UNUSED_##func1, absent, func1, )) \
	}
#define JS_CFUNC_MAGIC_DEF(name, length, func1, magic)                                                   \
	{                                                                                                \
		name, METHOD, JS_DEF_CFUNC, magic,                                                       \
			FUNCTION(generic_magic, length, THIRD_OF(UNUSED_##func1, absent_magic, func1, )) \
	}
#define JS_CGETSET_DEF(name, fgetter, fsetter)                                         \
	{                                                                              \
		name, JS_PROP_CONFIGURABLE, JS_DEF_CGETSET, 0,                         \
			GETSET(, THIRD_OF(UNUSED_##fgetter, absent_getter, fgetter, ), \
			       THIRD_OF(UNUSED_##fsetter, absent_setter, fsetter, ))   \
	}
#define JS_CGETSET_MAGIC_DEF(name, fgetter, fsetter, magic)                                        \
	{                                                                                          \
		name, JS_PROP_CONFIGURABLE, JS_DEF_CGETSET_MAGIC, magic,                           \
			GETSET(_magic, THIRD_OF(UNUSED_##fgetter, absent_getter_magic, fgetter, ), \
			       THIRD_OF(UNUSED_##fsetter, absent_setter_magic, fsetter, ))         \
	}
#define THIRD_OF(...) THIRD(__VA_ARGS__)

#include "quickjs.c"
