/** The bundle of the offload, which the daemon reads when there is to be one (native.importBundle). */
export { dumpPrograms } from "./dump.ts";
export { Offload, OffloadError, obstacleOf } from "./offload.ts";
