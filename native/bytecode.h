/*
 * What a file of bytecode begins with. Bytecode of another engine, or of another byte order, would take the engine
 * down, so the first line has to be this one exactly; the engine's own bytes follow.
 */
#ifndef MASQD_BYTECODE_H
#define MASQD_BYTECODE_H

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

#endif
