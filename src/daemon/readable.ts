import * as native from "masq:native";

const set = Int32Array.of(-1, native.POLLIN, 0);

/** Whether a descriptor can be read now; so too if that cannot be found out. */
export function isReadable(fd: native.Fd): boolean {
	set[0] = fd;
	try {
		return native.poll(set, 1, 0) > 0;
	} catch {
		return true;
	}
}
