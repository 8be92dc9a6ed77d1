"""Every row that a masquerader is measured by: id, level, requirement in our own words. The level is the RFC's.

A star after the id: the row is also run at table fill 90 % and 100 % and under a SYN flood (load.py). A level of `info` is a row
without a normative level: what it asks for was chosen for masqd. `if DCCP` holds only for a NAT that translates DCCP by port.
"""

import dataclasses

TABLE = """
U-1*    MUST      mapping is endpoint-independent
U-1b*   MUST      ...under contention for a source port
U-1c    MUST      ...after one session's expiry
U-2     REC       paired pooling: one address a host
U-3*    MUST NOT  share an external port (overloading)
U-3a    REC       port class kept: 0-1023 and 1024-65535
U-4     REC       port parity kept
U-4c    info      contiguity of RTP/RTCP port pairs
U-5     MUST      a UDP mapping lives at least 120 s
U-5'    MUST      ...after one request and one reply
U-5a    MAY       UDP timer shorter for known ports only
U-5b    MAY       the UDP timer is configurable
U-5c    REC       UDP timer at least 300 s by default
U-6     MUST      outbound packets refresh the mapping
U-6a    MAY       inbound refresh (we choose: no)
U-7     MUST      WAN subnet overlaps the LAN's
U-8*    REC       filtering as configured
U-8a    MAY       filtering per host, per zone, live
U-9     MUST      hairpin: reach a LAN host by X'
U-9a    MUST      hairpin source is external
U-10    SHOULD    UDP ALGs off: payload untouched
U-10a   REC       each ALG can be switched
U-11    MUST      deterministic: * rows at every fill
U-12    MUST      no ICMP ends a mapping
U-12a   SHOULD NOT  filter ICMP errors by their source
U-12b   REC       Destination Unreachable is supported
U-13    MUST      DF and too big: ICMP 3/4 to the sender
U-13a   MUST      no DF and too big: fragments, in order
U-14    MUST      fragments in any order are forwarded
U-14a   MUST      fragment flood does not hurt others
U-14b   info      overlapping fragments are dropped

T-1*    MUST      endpoint-independent mapping for TCP
T-2     MUST      all valid sequences of segments
T-2a    MUST      simultaneous open
T-3a    REC       filtering EIF or ADF for TCP
T-3b    MAY       TCP filtering independent of UDP's
T-4     MUST NOT  answer an unsolicited SYN within 6 s
T-4'    MUST      own SYN within 6 s: no error ever
T-4a    MUST      policy "drop": silent for ever
T-4r    info      SYN to the router's port is answered
T-5     MUST      connection idle lives 7440 s
T-5u    MUST      ...unacknowledged, zero window
T-5h    MUST      ...half-closed
T-5t    MUST      opening and closing at least 240 s
T-5a    MAY       TCP timers are configurable
T-5k    info      keepalive at the last moment
T-6     REC       TCP ALGs off, except FTP
T-7*    MUST NOT  port overloading for TCP
T-8     MUST      TCP hairpin
T-8a    MUST      TCP hairpin source is external
T-9     SHOULD    ICMP type 3 about TCP is translated
T-10    MUST NOT  ICMP ends a connection
T-x1    info      an off-path RST is ignored
T-x2    info      a new SYN reuses a closing 5-tuple
T-x3    info      mid-stream pick-up never leaks

I-1     MUST      queries out, replies back
I-1a    SHOULD    query mapping endpoint-independent
I-2     MUST      a query session lives at least 60 s
I-2a    REC       the ICMP timer is configurable
I-3     SHOULD    bad ICMP checksum: dropped silently
I-3a    SHOULD    bad quoted IP checksum: dropped
I-3b    MUST      IP options in the quote are skipped
I-3c    SHOULD NOT  verify the quoted transport checksum
I-3d    MUST      RFC 4884 extensions are left alone
I-4     MUST      errors from outside translated
I-5     MUST      errors from inside translated
I-6     MUST NOT  error touches a query session
I-7     MUST      errors are hairpinned
I-7a    MUST      ...to the inner source of the quote
I-8*    SHOULD    no room: ICMP to the host, and dropped
I-9     MAY       ICMP can be switched off per interface
I-10a   MUST      Unreachable, Time Exceeded, Echo
I-10b   MAY       other ICMP types
I-10c   SHOULD NOT  pass Source Quench and Information
I-10d   SHOULD    errors carry the packet's DS field
I-10e   REC       no errors where RFC 1812 wants none
I-10f   REC       generated errors are rate-limited
I-11    MAY       unknown ICMP types dropped, counted
I-71    MUST      DF honoured, "too big" forwarded
I-73    SHOULD NOT  forward ICMP with a source route

N-2     SHOULD    state machine of RFC 7857
N-2.1   SHOULD    opening and closing timers >= 240 s
N-2.2   MUST      RST keeps state 240 s, data revives it
N-3     MAY       port overlapping only on request
N-4     SHOULD    full external address: no spilling
N-5     SHOULD    mappings are per protocol
N-6     SHOULD    filters are per protocol
N-7     SHOULD NOT  filtered inbound packets refresh
N-7.1   SHOULD NOT  an outbound error refreshes
N-8     MAY       port parity on request (PCP)
N-9     SHOULD    changed ports can not be guessed
N-10    SHOULD    IP-ID as of RFC 6864
N-11    MAY       query mapping ends with last session
N-12    info      hairpinned errors find the inside host
ID-1    MUST      fragments get unique IP-IDs

C-1     MUST      each protocol forwarded meets its RFC
C-2     MUST      pooling is paired by default
C-3     MUST      pools of ranges and single addresses
C-4     MUST      per-host limit of mappings
C-4a    MUST      ...configurable
C-4b    MAY       ...per protocol
C-4c    REC       ...and of the rate of new ones
C-5     SHOULD    per-host limit of sessions
C-5a    SHOULD    ...configurable
C-5b    SHOULD    ...and of their rate
C-6     MUST      exempt destinations are not translated
C-7     REC       endpoint-independent filtering
C-8     SHOULD    a freed port rests 120 s
C-9     MUST      mappings on request (PCP)
C-10    SHOULD    manageable: counters
C-11a   MUST      exhausted: new flows are dropped
C-11b   SHOULD    ...and their host is told
C-11c   SHOULD    ...and the owner
C-11d   MUST NOT  live mappings make room for new ones
C-12    SHOULD NOT  log destinations
C-13    SHOULD    the port range is used to its end
C-14    SHOULD    logging is little
C-15    SHOULD    ports can not be guessed

D-1     if DCCP   endpoint-independent mapping
D-2     if DCCP   all valid sequences
D-3     if DCCP   filtering
D-4     if DCCP   6 s of silence
D-5     if DCCP   timers
D-6     if DCCP   no ALG touches it
D-7     if DCCP   no overloading
D-8     if DCCP   hairpin
D-9     if DCCP   ICMP errors are translated
D-10    if DCCP   ICMP never ends it
D-11    if DCCP   valid checksum
D-12    if DCCP   coverage untouched
D-u     info      SCTP, UDP-Lite, other protocols

R-1     MUST      TTL less one; 0: ICMP 11/0
R-2     MUST NOT  judge the TTL of packets to the router
R-3     SHOULD    errors quote as much as fits 576 bytes
R-4     MUST      errors come from the interface
R-5     MUST      no route 3/0, dead next hop 3/1
R-6     MUST NOT  errors about errors, broadcasts etc.
R-7     SHOULD    error rate limit, clean traceroute
R-8     MUST      header checks
R-8b    info      transport header checks before state
R-9     SHOULD NOT  forward martians
R-10    BCP 38    a LAN source belongs to the LAN
R-11    info      WAN packets with LAN addresses
R-12    MUST NOT  forward link-layer broadcasts
R-13    SHOULD    few fragments, in order
R-14    info      DSCP, ECN, ID, UDP checksum 0 kept
F-1*    info      fail-closed: no private source on WAN
F-2     info      a flow shadows no port of the router
F-3     info      an early peer packet moves no port
F-4     info      a flooding host hurts no other
F-5     info      an inbound flood makes no state
L-1     RFC 8158  events can be read

W-1     info      new WAN address: flows move at once
W-2     info      link bounce, same address: flows kept
W-3     info      no WAN address: told, then well again
W-4     info      reload, upgrade, kill -9
W-5     info      WAN MTU change: MSS clamp follows
W-6     info      deleted forward ends its sessions
"""


@dataclasses.dataclass(frozen=True)
class Row:
    id: str
    level: str
    requirement: str
    star: bool


def _read(table):
    rows = {}
    for line in filter(None, table.splitlines()):
        name, rest = line.split(None, 1)
        level, requirement = (part.strip() for part in rest.split("  ", 1))
        assert len(requirement) <= 38, f"{name}: too long for the table"
        rows[name.rstrip("*")] = Row(name.rstrip("*"), level, requirement, name.endswith("*"))
    return rows


CATALOGUE = _read(TABLE)

# Rows that masqd deliberately does not meet, with the reason that the README gives. Never a MUST or SHOULD.
DEVIATIONS = {
    "I-9": "errors that masqd itself sends are switched off for all interfaces at once (icmp_rate '0'), not for one",
    "T-3b": "a host has one filtering mode for all protocols",
    "C-4b": "a host has one limit of sessions for all protocols together",
    "D-4": "unsolicited DCCP is met with silence for ever, not with an error after six seconds",
}

# Rows that the kernel driver does not meet, whatever their level: the kernel tracks the connections. The README lists them with the reason.
KERNEL_DEVIATIONS = {
    "U-6a": "the kernel refreshes a session by packets of either direction",
    "U-7": "connections that there were go on while WAN and LAN overlap; new ones are refused",
    "U-10a": "FTP is the kernel's own helper's business, and so is whether it is on",
    "I-3a": "the kernel does not look at the checksum of the header that an error quotes",
    "I-10d": "errors of the kernel's own carry the DS field that the kernel gives them",
    "N-2": "after a reset the kernel keeps a connection four minutes from its last segment, whatever comes",
    "N-2.2": "after a reset the kernel keeps a connection four minutes from its last segment, whatever comes",
    "N-7.1": "the kernel refreshes a session by packets of either direction",
    **{f"D-{n}": "newer kernels do not translate DCCP" for n in range(1, 13) if n != 4},
    "D-u": "the kernel asks of SCTP that an association begins with INIT",
}

_FREE = ("REC", "MAY", "info", "if DCCP")
assert all(CATALOGUE[name].level in _FREE for name in DEVIATIONS), "only REC, MAY and informative rows may be deviated from"

# Rows that follow from others: they pass if all of those do.
DERIVED = {
    "U-11": lambda ids: [name for name in ids if "@" in name],
    "C-1": lambda ids: [name for name in ids if name[0] in "UTI" and "@" not in name and CATALOGUE[name].level.startswith("MUST") and name != "U-11"],
}
