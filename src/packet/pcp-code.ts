/**
 * Port, opcodes and result codes of PCP (RFC 6887); NAT-PMP shares the port. Constants alone, so that esbuild inlines
 * them.
 */

export const PCP_PORT = 5351;
/** Longest message (RFC 6887 section 7). */
export const PCP_MAX = 1100;

export const ANNOUNCE = 0;
export const MAP = 1;
export const PEER = 2;

/** Result codes of PCP (RFC 6887 section 7.4). */
export const SUCCESS = 0;
export const UNSUPP_VERSION = 1;
export const NOT_AUTHORIZED = 2;
export const MALFORMED_REQUEST = 3;
export const UNSUPP_OPCODE = 4;
export const UNSUPP_OPTION = 5;
export const NETWORK_FAILURE = 7;
export const NO_RESOURCES = 8;
export const UNSUPP_PROTOCOL = 9;
export const USER_EX_QUOTA = 10;
export const CANNOT_PROVIDE_EXTERNAL = 11;
export const ADDRESS_MISMATCH = 12;
