/** Begins the name of a property that was private. */
export const PRIVATE: RegExp;
/** The text of a source file, with constants in place of their names and properties in place of private names. */
export function lean(path: string): string;
