/**
 * The fast path of a packet, both directions: a plain IPv4 TCP or UDP packet of a known session. Hot file: function
 * locals, `var`, signed 32-bit arithmetic, one call a batch, everything rare handed to `slow-path.ts` (src/README.md).
 *
 * Per packet: header checks (RFC 1812 section 5.2.2; the IPv4 header checksum is verified before a frame gets here: the
 * kernel does it for TUN, the socket filter for packet sockets, which cuts a faulty frame and a link-layer broadcast
 * short so that it fails the length check and is judged by the slow path), session lookup, state and timer, RFC 1624
 * update of both checksums from the session's stored delta, address, port, hop count, counters, link header. The two
 * loops are mirror images; the differences are which address and port words change and that only outbound packets
 * refresh a UDP mapping (RFC 4787 REQ-6).
 *
 * A known five-tuple is not believed by itself. An outbound packet has to come by the LAN port that its session's host
 * is on: its source tells where that is, if it is in the subnet that this port alone has, else the host's record. An
 * inbound packet is never of a session between two internal hosts, whose peer is one of our own addresses.
 *
 * Whether a queue has room is looked at once a batch: what the slow path pushes leaves a batch's room free
 * ({@link Queue}).
 *
 * Checksums: the delta of the address pair is `delta & 0xffff`, with the ports `delta >>> 16`; inbound is the
 * ones-complement of both. A partial checksum (virtio flag) holds the pseudo-header sum only, not complemented, so it
 * takes the address delta and no ports. If it begins elsewhere than at the UDP header, it is that of a packet in a
 * tunnel. The first words of all frames of a batch, or-ed together, say whether the port has to look at each one's type
 * of service.
 */

import {
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOP_SHIFT,
	HOST_FRESH,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_SHIFT,
	R_ACK_IN,
	R_ACK_OUT,
	R_BYTES_IN,
	R_BYTES_OUT,
	R_CHAIN_IN,
	R_CHAIN_OUT,
	R_DELTA,
	R_HOST,
	R_IN,
	R_LAST,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	R_PEER,
	RECORD_SHIFT,
	STATE_MASK,
	STATE_SHIFT,
} from "../conntrack/record.ts";
import { TCP_ESTABLISHED, UDP_NEW, UDP_OPEN } from "../conntrack/states.ts";
import { ETHER_HEADER } from "../packet/ethernet.ts";
import { HEADER_SHIFT, HOST_TAG } from "../packet/header-tag.ts";
import {
	IP_DESTINATION_W,
	IP_FLAGS_W,
	IP_HEADER,
	IP_SOURCE_W,
	IP_TTL_W,
	PLAIN_DESTINATION_PORT_H,
	PLAIN_PORTS_W,
	PLAIN_SOURCE_PORT_H,
	PLAIN_TCP_ACK_W,
	PLAIN_TCP_FLAGS_W,
	PLAIN_TCP_SUM_H,
	PLAIN_UDP_SUM_H,
} from "../packet/ipv4.ts";
import {
	IP_DF,
	IP_FRAGMENT,
	IP_PLAIN,
	IP_SUM_SHIFT,
	IP_TOS_CLASS,
	IP_VERSION_MASK,
	IP_WORD,
	LITTLE,
	PORT_FIRST_SHIFT,
	PORT_SECOND_SHIFT,
	PROTO_SHIFT,
	TCP,
	TCP_FLAG_SHIFT,
	TTL_ONE,
	TTL_ONE_SUM,
	TTL_PROTO_MASK,
	TTL_SHIFT,
	UDP,
	VNET_CSUM_START,
	VNET_HDR_LEN,
	VNET_PARTIAL,
} from "../packet/layout.ts";
import { TCP_HEADER } from "../packet/tcp.ts";
import { UDP_HEADER } from "../packet/udp.ts";
import { type Context, HAIRPIN } from "./context.ts";
import { REASON } from "./reason.ts";
import type { SlowPath } from "./slow-path.ts";

/**
 * Mask of the states that differ from TCP_ESTABLISHED in who has sent FIN alone: what plain data does is the same in
 * all. Where something carries packets beside the table it decides which of them a session is in.
 */
const OPEN_STATES = ~3;
/** Stands for the state of a TCP session that the packet in hand has made. */
const BEGUN = -1;

/** The two batch functions. */
export interface FastPath {
	/** Translates `count` received frames of LAN port `port` (pairs in `rx`) into the WAN queue. */
	outbound(rx: Int32Array, count: number, port: number): void;
	/** Translates `count` received frames of the WAN port into the queues of the LAN ports. */
	inbound(rx: Int32Array, count: number): void;
}

/**
 * Builds the batch functions over a context. The rare cases go to `slow`, which pushes its own results to the queues.
 */
export function makeFastPath(c: Context, slow: SlowPath): FastPath {
	var imul = Math.imul;
	var table = c.table;
	var track = slow.track;
	var opening = slow.opening;
	var T0 = table.T;
	var T16 = table.T16;
	var outHeads = table.outHeads;
	var inHeads = table.inHeads;
	var key0 = table.key0;
	var key1 = table.key1;
	var key2 = table.key2;
	var chainShift = table.shift;
	var hostWords = c.hosts.W;

	/**
	 * Drops the frames of a batch from number `from` on: their port's queue has no room, because what was there before
	 * has not been sent. Returns `from`.
	 */
	function refuse(rx: Int32Array, from: number, count: number, port: number): number {
		for (let n = from; n < count; n++) c.dropLog.add(REASON["queue-full"], rx[n * 2], port, c.now);
		return from;
	}

	function outbound(rx: Int32Array, frames: number, port: number): void {
		var P = c.views.P;
		var H = c.views.H;
		var t = T0;
		var t16 = T16;
		var heads = outHeads;
		var k0 = key0;
		var k1 = key1;
		var k2 = key2;
		var shift = chainShift;
		var now16 = c.now16;
		var lan = c.lan[port];
		var wan = c.wan;
		var queue = wan.queue;
		var X = queue.pairs;
		var externals = c.externals.A;
		var tags = c.hops.tags;
		var mtu = c.hops.least;
		var hw = hostWords;
		var home = lan.home;
		var sole = lan.sole.address;
		var soleMask = lan.sole.mask;
		var cross = (wan.ethernet ? ETHER_HEADER : 0) - (lan.ethernet ? ETHER_HEADER : 0);
		var start = (lan.ethernet ? ETHER_HEADER : 0) + IP_HEADER;
		var any = 0;
		var ttlOne = lan.kernelForwards ? 0 : TTL_ONE;
		var ttlSum = lan.kernelForwards ? 0 : TTL_ONE_SUM;
		var ttlLeast = lan.kernelForwards ? 1 : 2;
		var versionMask = IP_VERSION_MASK;
		var plain = IP_PLAIN;
		var fragmentable = IP_FRAGMENT | IP_DF;
		var df = IP_DF;
		var ttlShift = TTL_SHIFT;
		var protoShift = PROTO_SHIFT;
		var sumShift = IP_SUM_SHIFT;
		var secondShift = PORT_SECOND_SHIFT;
		var ttlProto = TTL_PROTO_MASK;
		var flagShift = TCP_FLAG_SHIFT;
		var partial = VNET_PARTIAL;
		var little = LITTLE;
		var openStates = table.hooks === null ? OPEN_STATES : -1;
		var classes = IP_TOS_CLASS;
		var m = queue.count << 1;
		var skipped = 0;
		var i: number;
		var e = 0;
		var s: number;
		var sw: number;
		var w: number;
		var h: number;
		var a: number;
		var b: number;
		var w2: number;
		var internal: number;
		var peer: number;
		var ports: number;
		var length: number;
		var protocol: number;
		var x: number;
		var v: number;
		var meta = 0;
		var f: number;
		var field: number;
		var count = frames;
		if (m + (count << 1) > queue.size) count = refuse(rx, (queue.size - m) >> 1, count, port);
		for (var n = 0, end = count << 1; n < end; n += 2) {
			s = rx[n];
			sw = s >> 2;
			w = sw + IP_WORD;
			h = w << 1;
			a = P[w];
			any |= a;
			b = P[w + IP_FLAGS_W];
			w2 = P[w + IP_TTL_W];
			internal = P[w + IP_SOURCE_W];
			peer = P[w + IP_DESTINATION_W];
			length = little ? ((a >> 8) & 0xff00) | (a >>> 24) : a & 0xffff;
			protocol = (w2 >> protoShift) & 0xff;
			if (
				(a & versionMask) !== plain ||
				(b & fragmentable) !== df ||
				length > rx[n + 1] ||
				((w2 >>> ttlShift) & 0xff) < ttlLeast ||
				(protocol === UDP ? length < IP_HEADER + UDP_HEADER : protocol !== TCP || length < IP_HEADER + TCP_HEADER)
			) {
				if (
					(b & fragmentable) !== 0 ||
					(a & versionMask) !== plain ||
					length > rx[n + 1] ||
					((w2 >>> ttlShift) & 0xff) < ttlLeast ||
					(protocol === UDP ? length < IP_HEADER + UDP_HEADER : protocol !== TCP || length < IP_HEADER + TCP_HEADER)
				) {
					queue.count = m >> 1;
					slow.outbound(s, rx[n + 1], port);
					m = queue.count << 1;
					skipped++;
					continue;
				}
				// All that it lacks is DF.
				slow.identify(s);
				w2 = P[w + IP_TTL_W];
			}
			ports = P[w + PLAIN_PORTS_W];
			v = imul(ports ^ k0, k1) ^ internal;
			i = heads[imul(v ^ (v >>> 15) ^ peer, k2) >>> shift];
			while (i !== 0) {
				e = i << RECORD_SHIFT;
				meta = t[e + R_META];
				if (t[e + R_OUT] === ports && t[e] === internal && t[e + R_PEER] === peer && (meta & 0xff) === protocol) break;
				i = t16[(i << HALF_SHIFT) + R_CHAIN_OUT];
			}
			if (i === 0) {
				queue.count = m >> 1;
				i = opening.first(s, length, port);
				m = queue.count << 1;
				if (i === 0) {
					skipped++;
					continue;
				}
				e = i << RECORD_SHIFT;
				meta = t[e + R_META];
				// What a first packet does to the state is done.
				f = protocol === TCP ? BEGUN : UDP_NEW;
			} else {
				if (
					((internal ^ sole) & soleMask) !== 0 &&
					((hw[(t16[(i << HALF_SHIFT) + R_HOST] << HOST_SHIFT) + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff) !== home &&
					!slow.comesFrom(i, s, port)
				) {
					skipped++;
					continue;
				}
				f = (meta >> STATE_SHIFT) & STATE_MASK;
			}
			if (protocol === TCP) {
				field = h + PLAIN_TCP_SUM_H;
				v = P[w + PLAIN_TCP_FLAGS_W] >> flagShift;
				if ((v & 7) !== 0 || (f & openStates) !== TCP_ESTABLISHED) {
					if (f !== BEGUN) {
						length = track.tcpOutbound(i, s, IP_HEADER, length);
						if (length === 0) {
							skipped++;
							continue;
						}
						w2 = P[w + IP_TTL_W];
					}
				} else {
					t[e + R_ACK_OUT] = P[w + PLAIN_TCP_ACK_W];
					if (t16[(i << HALF_SHIFT) + R_LAST] !== now16) table.touch(i, now16);
				}
			} else {
				field = h + PLAIN_UDP_SUM_H;
				if (f !== UDP_OPEN && f !== UDP_NEW) track.udpOutbound(i);
				else if (t16[(i << HALF_SHIFT) + R_LAST] !== now16) table.touch(i, now16);
			}
			if (length > mtu) {
				queue.count = m >> 1;
				v = slow.tooBig(s, length, mtu, port, i);
				m = queue.count << 1;
				if (v !== 0) {
					skipped++;
					continue;
				}
			}
			a = tags[meta >>> HOP_SHIFT];

			// Translate: checksums, hop count, source.
			v = t[e + R_DELTA];
			b = ((~w2 >> sumShift) & 0xffff) + (v & 0xffff) + ttlSum;
			b = (b & 0xffff) + (b >> 16);
			b += b >> 16;
			P[w + IP_TTL_W] = ((w2 & ttlProto) - ttlOne) | ((~b & 0xffff) << sumShift);
			P[w + IP_SOURCE_W] = externals[(meta >> EXTERNAL_SHIFT) & 0xff];
			H[h + PLAIN_SOURCE_PORT_H] = t[e + R_IN] >> secondShift;
			x = P[sw];
			b = H[field];
			if ((x & partial) !== 0) {
				if (protocol === UDP && H[(sw << 1) + VNET_CSUM_START] !== start) slow.tunnelled(queue, field, v);
				else {
					b += v & 0xffff;
					H[field] = (b & 0xffff) + (b >> 16);
				}
				if (cross !== 0) H[(sw << 1) + VNET_CSUM_START] += cross;
			} else if (b !== 0 || protocol === TCP) {
				b = (b ^ 0xffff) + (v >>> 16);
				b = (b & 0xffff) + (b >> 16);
				H[field] = b === 0xffff && protocol === UDP ? 0xffff : ~b;
			}
			if (cross !== 0 && x !== 0 && H[(sw << 1) + VNET_HDR_LEN] !== 0) H[(sw << 1) + VNET_HDR_LEN] += cross;

			x = e + R_PACKETS_OUT;
			t[x] = t[x] + 1;
			b = t[e + R_BYTES_OUT] + length;
			if (b >= BYTES_CARRY) {
				b -= BYTES_CARRY;
				table.carried(i, 0);
			}
			t[e + R_BYTES_OUT] = b;
			if (a === 0) {
				queue.count = m >> 1;
				slow.park(meta >>> HOP_SHIFT, s, length);
				m = queue.count << 1;
				skipped++;
				continue;
			}
			X[m] = s;
			X[m + 1] = length | a;
			m += 2;
		}
		queue.count = m >> 1;
		if ((any & classes) !== 0) queue.mixed = true;
		c.forwardedOut += count - skipped;
	}

	function inbound(rx: Int32Array, frames: number): void {
		var P = c.views.P;
		var H = c.views.H;
		var t = T0;
		var t16 = T16;
		var hw = hostWords;
		var heads = inHeads;
		var k0 = key0;
		var k1 = key1;
		var k2 = key2;
		var shift = chainShift;
		var now16 = c.now16;
		var wan = c.wan;
		var lans = c.lan;
		var lanNumber = 0;
		var lan = lans[0];
		var queue = lan.queue;
		var X = queue.pairs;
		var own = c.externals.A[0];
		var mtu = lan.mtu;
		var wanHeader = wan.ethernet ? ETHER_HEADER : 0;
		var start = wanHeader + 20;
		var any = 0;
		var cross = (lan.ethernet ? ETHER_HEADER : 0) - wanHeader;
		var ttlOne = lan.kernelForwards ? 0 : TTL_ONE;
		var ttlSum = lan.kernelForwards ? 0 : TTL_ONE_SUM;
		var versionMask = IP_VERSION_MASK;
		var plain = IP_PLAIN;
		var fragment = IP_FRAGMENT;
		var ttlShift = TTL_SHIFT;
		var protoShift = PROTO_SHIFT;
		var sumShift = IP_SUM_SHIFT;
		var firstShift = PORT_FIRST_SHIFT;
		var ttlProto = TTL_PROTO_MASK;
		var flagShift = TCP_FLAG_SHIFT;
		var partial = VNET_PARTIAL;
		var little = LITTLE;
		var openStates = table.hooks === null ? OPEN_STATES : -1;
		var classes = IP_TOS_CLASS;
		var m = queue.count << 1;
		var skipped = 0;
		var i: number;
		var e = 0;
		var s: number;
		var sw: number;
		var w: number;
		var h: number;
		var a: number;
		var b: number;
		var w2: number;
		var peer: number;
		var external: number;
		var ports: number;
		var length: number;
		var protocol: number;
		var key: number;
		var x: number;
		var v: number;
		var meta = 0;
		var f: number;
		var field: number;
		var count = frames;
		if (m + (count << 1) > queue.size) count = refuse(rx, (queue.size - m) >> 1, count, -1);
		for (var n = 0, end = count << 1; n < end; n += 2) {
			s = rx[n];
			sw = s >> 2;
			w = sw + IP_WORD;
			h = w << 1;
			a = P[w];
			any |= a;
			b = P[w + IP_FLAGS_W];
			w2 = P[w + IP_TTL_W];
			peer = P[w + IP_SOURCE_W];
			external = P[w + IP_DESTINATION_W];
			length = little ? ((a >> 8) & 0xff00) | (a >>> 24) : a & 0xffff;
			protocol = (w2 >> protoShift) & 0xff;
			key = external === own ? protocol : protocol | (c.externals.find(external) << 8);
			if (
				(a & versionMask) !== plain ||
				(b & fragment) !== 0 ||
				length > rx[n + 1] ||
				((w2 >>> ttlShift) & 0xff) < 2 ||
				(protocol === UDP ? length < IP_HEADER + UDP_HEADER : protocol !== TCP || length < IP_HEADER + TCP_HEADER) ||
				key < 0
			) {
				queue.count = m >> 1;
				slow.inbound(s, rx[n + 1]);
				m = queue.count << 1;
				skipped++;
				continue;
			}
			ports = P[w + PLAIN_PORTS_W];
			v = imul(ports ^ k0, k1) ^ peer;
			i = heads[imul(v ^ (v >>> 15) ^ external, k2) >>> shift];
			while (i !== 0) {
				e = i << RECORD_SHIFT;
				meta = t[e + R_META];
				if (t[e + R_IN] === ports && t[e + R_PEER] === peer && (meta & 0xffff) === key) break;
				i = t16[(i << HALF_SHIFT) + R_CHAIN_IN];
			}
			if (i === 0) {
				queue.count = m >> 1;
				i = slow.openInbound(s, length);
				m = queue.count << 1;
				if (i === 0) {
					skipped++;
					continue;
				}
				e = i << RECORD_SHIFT;
				meta = t[e + R_META];
			}
			// Hop numbers from 128 on make it negative, HAIRPIN among them.
			if (meta < 0 && meta >>> HOP_SHIFT === HAIRPIN) {
				slow.notFromOutside(s);
				skipped++;
				continue;
			}
			f = (meta >> STATE_SHIFT) & STATE_MASK;
			if (protocol === TCP) {
				field = h + PLAIN_TCP_SUM_H;
				v = P[w + PLAIN_TCP_FLAGS_W] >> flagShift;
				if ((v & 7) !== 0 || (f & openStates) !== TCP_ESTABLISHED) {
					queue.count = m >> 1;
					f = track.tcpInbound(i, s, IP_HEADER, length, -1) ? 1 : 0;
					m = queue.count << 1;
					if (f === 0) {
						skipped++;
						continue;
					}
				} else {
					t[e + R_ACK_IN] = P[w + PLAIN_TCP_ACK_W];
					if (t16[(i << HALF_SHIFT) + R_LAST] !== now16) table.touch(i, now16);
				}
			} else {
				field = h + PLAIN_UDP_SUM_H;
				if (f !== UDP_OPEN) track.udpInbound(i);
			}

			x = t16[(i << HALF_SHIFT) + R_HOST] << HOST_SHIFT;
			a = hw[x + HOST_PLACE];
			b = (a >>> HOST_PORT_SHIFT) & 0xff;
			if (b !== lanNumber) {
				queue.count = m >> 1;
				lanNumber = b;
				lan = lans[b];
				queue = lan.queue;
				X = queue.pairs;
				m = queue.count << 1;
				if (m + end - n > queue.size) {
					refuse(rx, n >> 1, count, -1);
					skipped += (end - n) >> 1;
					break;
				}
				mtu = lan.mtu;
				cross = (lan.ethernet ? ETHER_HEADER : 0) - wanHeader;
				ttlOne = lan.kernelForwards ? 0 : TTL_ONE;
				ttlSum = lan.kernelForwards ? 0 : TTL_ONE_SUM;
			}
			if (length > mtu) {
				queue.count = m >> 1;
				v = slow.tooBig(s, length, mtu, -1, i);
				m = queue.count << 1;
				if (v !== 0) {
					skipped++;
					continue;
				}
			}

			// Translate: checksums, hop count, destination.
			v = ~t[e + R_DELTA];
			b = ((~w2 >> sumShift) & 0xffff) + (v & 0xffff) + ttlSum;
			b = (b & 0xffff) + (b >> 16);
			b += b >> 16;
			P[w + IP_TTL_W] = ((w2 & ttlProto) - ttlOne) | ((~b & 0xffff) << sumShift);
			P[w + IP_DESTINATION_W] = t[e];
			H[h + PLAIN_DESTINATION_PORT_H] = t[e + R_OUT] >> firstShift;
			key = P[sw];
			b = H[field];
			if ((key & partial) !== 0) {
				if (protocol === UDP && H[(sw << 1) + VNET_CSUM_START] !== start) slow.tunnelled(queue, field, v);
				else {
					b += v & 0xffff;
					H[field] = (b & 0xffff) + (b >> 16);
				}
				if (cross !== 0) H[(sw << 1) + VNET_CSUM_START] += cross;
			} else if (b !== 0 || protocol === TCP) {
				b = (b ^ 0xffff) + (v >>> 16);
				b = (b & 0xffff) + (b >> 16);
				H[field] = b === 0xffff && protocol === UDP ? 0xffff : ~b;
			}
			if (cross !== 0 && key !== 0 && H[(sw << 1) + VNET_HDR_LEN] !== 0) H[(sw << 1) + VNET_HDR_LEN] += cross;

			v = e + R_PACKETS_IN;
			t[v] = t[v] + 1;
			b = t[e + R_BYTES_IN] + length;
			if (b >= BYTES_CARRY) {
				b -= BYTES_CARRY;
				table.carried(i, 1);
			}
			t[e + R_BYTES_IN] = b;
			if ((a & HOST_FRESH) === 0) {
				queue.count = m >> 1;
				c.hops.parkInternal(x >> 2, s, length);
				m = queue.count << 1;
				skipped++;
				continue;
			}
			X[m] = s;
			X[m + 1] = length | ((x << (HEADER_SHIFT - 2)) + HOST_TAG);
			m += 2;
		}
		queue.count = m >> 1;
		if ((any & classes) !== 0) for (i = 0; i < lans.length; i++) lans[i].queue.mixed = true;
		c.forwardedIn += count - skipped;
	}

	return { outbound, inbound };
}

/**
 * True if every frame in the WAN's queue has one of our addresses as its source. It reads the frames, not what the
 * loops above meant to write. One compare for the common case.
 */
export function sourcesAreOurs(c: Context): boolean {
	var X = c.wan.queue.pairs;
	var P = c.views.P;
	var own = c.externals.A[0];
	var source: number;
	for (var n = 0, end = c.wan.queue.count << 1; n < end; n += 2) {
		source = P[(X[n] >> 2) + (IP_WORD + 3)];
		if (source !== own && c.externals.find(source) < 0) return false;
	}
	return true;
}
