/**
 * Bytes of hosts by hour and day: their accounts, and what `hosts` answers of them. A bundle of its own.
 */
import { Accounts, ROWS } from "../conntrack/accounts.ts";
import { formatAddress } from "../packet/address.ts";
import { addressValue } from "../packet/layout.ts";
import type { AccountRow, AccountsReply } from "./protocol.ts";
import type { Answer } from "./stream.ts";

export { ACCOUNTS_BYTES } from "../conntrack/accounts.ts";

/** Rows of one slice. */
const SLICE = 16;

/** Accounts that answer. */
export class HostAccounts extends Accounts {
	/** The answer to `hosts` by hour or day. */
	answer(by: string, limit?: number | null): Answer {
		return { job: accounts(this, by, limit) };
	}
}

/** What hosts have moved by hour or day, those that moved most first: looked up to this moment. */
export function* accounts(a: Accounts, by: string, limit?: number | null): Generator<AccountRow[] | undefined, AccountsReply> {
	if (by !== "hour" && by !== "day") throw new Error("by what? hour or day");
	// Behind a look that has begun before there is one that has everything.
	for (let looks = a.looking ? 2 : 1; looks > 0; ) {
		if (a.step()) looks--;
		yield undefined;
	}
	const rows: AccountRow[] = [];
	const totals = new Map<AccountRow, number>();
	for (let n = 0; n <= ROWS; n++) {
		const found = a.row(n, by === "day");
		if (found === null) continue;
		const row = { address: n === 0 ? "others" : formatAddress(addressValue(found.address)), bytes: found.bytes };
		rows.push(row);
		totals.set(
			row,
			row.bytes.reduce((sum, [out, back]) => sum + out + back, 0),
		);
	}
	rows.sort((x, y) => (totals.get(y) ?? 0) - (totals.get(x) ?? 0));
	const shown = rows.slice(0, limit ?? ROWS + 1);
	for (let from = 0; from < shown.length; from += SLICE) yield shown.slice(from, from + SLICE);
	return { present: a.present(by === "day"), hosts: rows.length };
}
