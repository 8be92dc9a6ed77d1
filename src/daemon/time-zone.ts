/**
 * A time zone in POSIX' words. Summer time is left out: an hour that is another by name is no other hour.
 */

/** Seconds by which standard time is ahead of UTC: "CET-1CEST,M3.5.0,M10.5.0/3" is 3600, "<-0330>3:30" -12600. */
export function aheadOfUtc(zone: string): number {
	const [, sign, hours, minutes = 0] = /^(?:<[^>]*>|[a-z]+)([-+]?)(\d+)(?::(\d+))?/i.exec(zone) ?? ["", "", 0, 0];
	return (Number(hours) * 60 + Number(minutes)) * (sign === "-" ? 60 : -60);
}
