/** Who keeps the hosts' accounts (accounts.ts), as the table and the hosts tell it. */
export interface AccountHooks {
	/** A host has come that has no sessions yet; its address is raw. */
	open(address: number): void;
	/** Session `i` ends; its counters are all in its record. */
	ended(i: number): void;
	/** The table has lost all of its records. */
	begin(): void;
}
