/*
 * The engine's compiler of regular expressions, unchanged but for the byte order of what it writes: the other one.
 * Only for bytecode-swapped, which compiles and never matches.
 */
#include "cutils.h"

#define put_u16(at, value) put_u16(at, bswap16(value))
#define put_u32(at, value) put_u32(at, bswap32(value))
#define get_u16(at) bswap16(get_u16(at))
#define get_u32(at) bswap32(get_u32(at))
#define dbuf_put_u16(buffer, value) dbuf_put_u16(buffer, bswap16(value))
#define dbuf_put_u32(buffer, value) dbuf_put_u32(buffer, bswap32(value))

#include "libregexp.c"
