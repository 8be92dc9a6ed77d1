/** The bundle of `why` and `capture`, which the daemon reads when somebody asks for one of them. */
export { Captures } from "./capture.ts";
export { why } from "./dry-run.ts";
