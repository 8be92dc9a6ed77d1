/**
 * What a router's uhttpd serves of LuCI, as far as the pages need it: the static files, a page a view, and ubus by
 * JSON-RPC behind rpcd's access lists. In place of LuCI's own scripts stands the harness (harness.js), unless
 * LUCI_RESOURCES names a folder with the real ones.
 */
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { listen } from "./daemon.ts";
import { call, load, type Sections } from "./ucode.ts";

const TYPES: Record<string, string> = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html" };
/** What a hostile host calls itself. */
export const MARKUP = `<img src=x onerror="window.owned=1"><script>window.owned=1</script>`;

const OWNER = "owner";

type Arguments = Record<string, unknown>;
interface Acl {
	ubus?: Record<string, string[]>;
	uci?: string[];
}

export interface Options {
	/** The package's files. */
	files: string;
	/** The harness' folder, or that of LuCI's own resources. */
	resources: string;
	/** Path of the control socket. */
	socket: string;
	program: string;
	/** In the place of the script. */
	natType: string;
	real: boolean;
}

const INITIAL: Record<string, Sections> = {
	luci: [],
	masqd: [
		{ ".name": "main", ".type": "masqd", enabled: "1", sessions: "auto", ports: ["600-1023", "32768-65535"] },
		{ ".name": "cfg02", ".type": "wan", interface: "wan" },
		{ ".name": "cfg03", ".type": "lan", interface: "lan", driver: "tun" },
		{ ".name": "cfg04", ".type": "redirect", name: MARKUP, proto: ["tcp"], src_dport: "2222", dest_ip: "192.168.1.20", dest_port: "22" },
	],
	firewall: [
		{
			".name": "cfg01",
			".type": "redirect",
			name: "camera",
			src: "wan",
			target: "DNAT",
			proto: "tcp",
			src_dport: "8443",
			dest_ip: "192.168.1.30",
		},
	],
};

/** A uci of one user: changes wait until they are applied. */
class Uci {
	config = structuredClone(INITIAL);
	#waiting: Record<string, Sections> | null = null;
	#serial = 90;
	/** How often it was applied. */
	applied = 0;

	#open(): Record<string, Sections> {
		this.#waiting ??= structuredClone(this.config);
		return this.#waiting;
	}

	call(method: string, a: Arguments): object | number {
		const name = String(a.config ?? "");
		const find = (config: Record<string, Sections>) => (config[name] ?? []).find((s) => s[".name"] === a.section);
		switch (method) {
			case "get": {
				const sections = (this.#waiting ?? this.config)[name];
				if (sections === undefined) return 4;
				return {
					values: Object.fromEntries(
						sections.map((s, n) => [s[".name"], { ...s, ".anonymous": String(s[".name"]).startsWith("cfg"), ".index": n }]),
					),
				};
			}
			case "add": {
				const section = a.name === undefined ? `cfg${this.#serial++}` : String(a.name);
				this.#open()[name].push({ ".name": section, ".type": String(a.type), ...(a.values as object) });
				return { section };
			}
			case "set": {
				const found = find(this.#open());
				if (found === undefined) return 4;
				Object.assign(found, a.values);
				return 0;
			}
			case "delete": {
				const config = this.#open();
				const found = find(config);
				if (found === undefined) return 4;
				const options = (a.options as string[] | undefined) ?? (a.option === undefined ? [] : [String(a.option)]);
				for (const option of options) delete found[option];
				if (options.length === 0) config[name].splice(config[name].indexOf(found), 1);
				return 0;
			}
			case "order":
			case "confirm":
				return 0;
			case "changes":
				return { changes: {} };
			case "apply":
				if (this.#waiting !== null) {
					this.config = this.#waiting;
					this.#waiting = null;
				}
				this.applied++;
				return 0;
			default:
				return 3;
		}
	}
}

/** What tests look at and change. */
export interface Served {
	url: string;
	uci: Uci;
	rig: ReturnType<typeof listen>["rig"];
	stats: ReturnType<typeof listen>["stats"];
	/** Bytes of ubus' answers to the browser, and what was refused for want of a right. */
	traffic: { bytes: number; calls: string[]; refused: string[] };
	/** Names that DHCP has learned, by address. */
	names: Record<string, string>;
	/** The daemon goes. */
	silence(): void;
	close(): void;
}

/** Starts it on a port of its own. */
export function serve(o: Options): Promise<Served> {
	const { server: daemon, rig, stats } = listen(o.socket);
	const uci = new Uci();
	const plugin = load(
		join(o.files, "usr/share/rpcd/ucode/masqd"),
		{ MASQD_SOCKET: o.socket, MASQD_PROGRAM: o.program, MASQD_NAT_TYPE: o.natType },
		uci.config,
	);
	const acl = JSON.parse(readFileSync(join(o.files, "usr/share/rpcd/acl.d/luci-app-masqd.json"), "utf8"))["luci-app-masqd"] as {
		read: Acl;
		write: Acl;
	};
	const traffic: Served["traffic"] = { bytes: 0, calls: [], refused: [] };
	const names: Record<string, string> = {
		"192.168.1.10": "workstation",
		"192.168.1.11": MARKUP,
		"192.168.1.12": "games console of the living room",
	};

	/** rpcd's access lists: of this package, and what LuCI gives every user of its own. */
	const allowed = (reader: boolean, object: string, method: string, a: Arguments) => {
		if (object === "session" || object === "luci" || object === "system" || object === "file") return true;
		const lists = reader ? [acl.read] : [acl.read, acl.write];
		if (object === "uci") {
			const write = !["get", "changes", "state", "configs"].includes(method);
			if (write && reader) return false;
			// LuCI's own list has its own configuration.
			if (!write && a.config === "luci") return true;
			return a.config === undefined || (write ? [acl.write] : lists).some((list) => list.uci?.includes(String(a.config)));
		}
		return lists.some((list) => list.ubus?.[object]?.includes(method));
	};

	const invoke = async (object: string, method: string, a: Arguments): Promise<object | number> => {
		if (object === "uci") return uci.call(method, a);
		if (object === "luci-rpc")
			return Object.fromEntries(
				Object.entries(names).map(([address, name], n) => [`02:00:00:00:00:${10 + n}`, { name, ipaddrs: [address], ip6addrs: [] }]),
			);
		const found = plugin[object]?.[method];
		if (found !== undefined) return call(found, a);
		if (object === "session" && method === "access") return { access: true };
		return {};
	};

	const answer = async (request: { id: number; method: string; params: [string, string, string, Arguments] }) => {
		const frame = { jsonrpc: "2.0", id: request.id };
		if (request.method !== "call") return { ...frame, result: {} };
		const [session, object, method, a] = request.params;
		traffic.calls.push(`${object}.${method}`);
		if (!allowed(session !== OWNER, object, method, a ?? {})) {
			traffic.refused.push(`${object}.${method}`);
			return { ...frame, error: { code: -32002, message: "Access denied" } };
		}
		const result = await invoke(object, method, a ?? {});
		return { ...frame, result: typeof result === "number" ? [result] : [0, result] };
	};

	const send = (response: ServerResponse, status: number, type: string, body: string | Buffer) => {
		response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
		response.end(body);
	};

	const page = (name: string, reader: boolean) => {
		const env = {
			media: "/luci-static/bootstrap",
			resource: "/luci-static/resources",
			scriptname: "/cgi-bin/luci",
			pathinfo: `/admin/services/masqd/${name}`,
			requestpath: ["admin", "services", "masqd", name],
			dispatchpath: ["admin", "services", "masqd", name],
			sessionid: reader ? "reader" : OWNER,
			token: "t",
			pollinterval: 5,
			ubuspath: "/ubus/",
			nodespec: { satisfied: true, readonly: reader },
			apply_rollback: 30,
			apply_holdoff: 1,
			apply_timeout: 5,
			apply_display: 0.2,
			rollback_token: null,
		};
		return `<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>masqd</title><link rel="stylesheet" href="/luci-static/bootstrap/cascade.css">
${o.real ? '<script src="/luci-static/resources/cbi.js"></script>' : ""}<script src="/luci-static/resources/luci.js"></script>
<script>L = new LuCI(${JSON.stringify(env)});</script></head><body class="lang_en"><div id="maincontent" class="container">
<div id="tabmenu"></div><div id="view"><div class="spinning">Loading view…</div>
<script>L.require('ui').then(function(ui) { ui.instantiateView('masqd/${name}'); });</script></div></div></body></html>`;
	};

	const file = (response: ServerResponse, path: string) => {
		for (const root of [join(o.files, "www/luci-static/resources"), o.resources]) {
			const name = normalize(join(root, path));
			try {
				if (name.startsWith(root)) return send(response, 200, TYPES[extname(name)] ?? "text/plain", readFileSync(name));
			} catch {
				// Not there: the next folder.
			}
		}
		send(response, 404, "text/plain", "not found");
	};

	const http = createServer(async (request: IncomingMessage, response: ServerResponse) => {
		const { pathname } = new URL(request.url ?? "/", "http://router");
		const reader = (request.headers.cookie ?? "").includes("sysauth=reader");
		if (request.method === "POST") {
			let body = "";
			for await (const part of request) body += String(part);
			// LuCI's own scripts apply by its dispatcher.
			if (pathname.includes("/uci/apply")) uci.call("apply", {});
			if (!pathname.includes("ubus")) return send(response, 200, "application/json", "{}");
			const asked = JSON.parse(body);
			const found = Array.isArray(asked) ? await Promise.all(asked.map((one) => answer(one))) : await answer(asked);
			const text = JSON.stringify(found);
			traffic.bytes += text.length;
			return send(response, 200, "application/json", text);
		}
		const view = /^\/cgi-bin\/luci\/admin\/services\/masqd\/(\w+)$/.exec(pathname)?.[1];
		if (view !== undefined) return send(response, 200, "text/html; charset=utf-8", page(view, reader));
		if (pathname.startsWith("/luci-static/resources/")) return file(response, pathname.slice("/luci-static/resources/".length));
		if (pathname === "/luci-static/bootstrap/cascade.css") return file(response, "cascade.css");
		if (pathname.includes("translations")) return send(response, 200, "text/javascript", "");
		send(response, 404, "text/plain", "not found");
	});
	return new Promise((resolve) => {
		http.listen(0, "127.0.0.1", () => {
			resolve({
				url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/cgi-bin/luci/admin/services/masqd`,
				uci,
				rig,
				stats,
				traffic,
				names,
				silence: () => void daemon.close(),
				close() {
					http.closeAllConnections();
					http.close();
					daemon.close();
				},
			});
		});
	});
}
