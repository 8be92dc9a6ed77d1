/** The text of a bundle, with `var` for `let` and `const` wherever that changes nothing. */
export function hoist(text: string): string;
