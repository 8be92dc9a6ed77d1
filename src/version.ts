/** The program's version; esbuild defines it from package.json. */
declare const __VERSION__: string;
export const VERSION: string = typeof __VERSION__ === "string" ? __VERSION__ : "0.0.0";
