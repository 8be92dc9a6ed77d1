/**
 * UDP header (RFC 768), and the ports where all protocols have them that have some (layout.ts): offsets as in ipv4.ts,
 * from the header's first byte. Constants alone, so that esbuild inlines them.
 */

export const UDP_HEADER = 8;
export const DESTINATION_PORT = 2;
export const DESTINATION_PORT_H = 1;
export const UDP_LENGTH = 4;
export const UDP_LENGTH_H = 2;
export const UDP_SUM = 6;
export const UDP_SUM_H = 3;
