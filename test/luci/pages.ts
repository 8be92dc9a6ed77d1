/**
 * The pages in a real browser (Debian's Chromium by playwright-core), over a full table: what they show, what they ask
 * for, what a click does, what a hostile name does not. Screenshots of every page, wide and narrow, go to
 * build/luci-shots. `LUCI_RESOURCES=FOLDER` has LuCI's own scripts in the place of the harness.
 *
 *   node build/test/luci/pages.mjs [PART OF A NAME]
 */
import { strict as assert } from "node:assert";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { fillUp, HOSTS, SESSIONS } from "./daemon.ts";
import { MARKUP, type Served, serve } from "./server.ts";

const ROOT = process.cwd();
const SHOTS = join(ROOT, "build/luci-shots");
const REAL = process.env.LUCI_RESOURCES;
const VIEWS = ["overview", "devices", "connections", "why", "forwards", "settings"] as const;
const WIDTHS = [1280, 360];

interface World {
	served: Served;
	browser: Browser;
}

/** A page of the router's for a user, and what it complained of. */
async function open(
	w: World,
	view: string,
	user: "owner" | "reader" = "owner",
	width = 1280,
): Promise<{ page: Page; errors: string[]; context: BrowserContext }> {
	const context = await w.browser.newContext({ viewport: { width, height: 900 } });
	await context.addCookies([{ name: "sysauth", value: user, domain: "127.0.0.1", path: "/" }]);
	const page = await context.newPage();
	const errors: string[] = [];
	page.on("pageerror", (error) => errors.push(`${error.stack}`));
	page.on("console", (message) => {
		if (message.type() === "error" && !message.text().includes("404")) errors.push(message.text());
	});
	await page.goto(`${w.served.url}/${view}`);
	await page.waitForSelector("#view h2");
	return { page, errors, context };
}

/**
 * Processor time, in milliseconds, of the page's thread and of this process, which is daemon, rpcd and uhttpd: what
 * another program does at the same time does not count. The page's thread counts from the first call.
 */
async function work(page: Page): Promise<() => Promise<number>> {
	const devtools = await page.context().newCDPSession(page);
	await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
	const spent = async () => {
		const { user, system } = process.cpuUsage();
		const { metrics } = await devtools.send("Performance.getMetrics");
		return (user + system) / 1000 + (metrics.find((one) => one.name === "TaskDuration")?.value ?? 0) * 1000;
	};
	const before = await spent();
	return async () => (await spent()) - before;
}

const text = (page: Page) => page.locator("#view").innerText();

const TESTS: [string, (w: World) => Promise<void>][] = [
	...VIEWS.flatMap((view) =>
		WIDTHS.map((width): [string, (w: World) => Promise<void>] => [
			`${view} fits ${width} pixels, and nothing complains`,
			async (w) => {
				const { page, errors, context } = await open(w, view, "owner", width);
				if (view === "why") {
					await page.getByRole("button", { name: "Why?" }).first().click();
					await page.waitForSelector(".masqd-steps li");
				}
				// With some of its graph.
				if (view === "overview") await page.waitForTimeout(6500);
				await page.screenshot({ path: join(SHOTS, `${view}-${width}.png`), fullPage: true });
				const wide = Number(await page.evaluate("document.documentElement.scrollWidth"));
				assert.ok(wide <= width, `${wide} pixels wide`);
				const broken = await page.evaluate(`[...document.querySelectorAll(".td")].filter((cell) => {
					const text = document.createRange();
					text.selectNodeContents(cell);
					return /^[\\d.]+\\s\\w*B?$/.test(cell.textContent) && text.getClientRects().length > 1;
				}).map((cell) => cell.textContent)`);
				assert.deepEqual(broken, [], "a number is apart from its unit");
				assert.deepEqual(errors, []);
				assert.equal(await page.locator(".alert-message.error").count(), 0);
				await context.close();
			},
		]),
	),
	[
		"markup in a device's or forward's name stays text on every page",
		async (w) => {
			for (const view of VIEWS) {
				const { page, context } = await open(w, view);
				const shown =
					(await page.locator("#view").innerText()) +
					String(await page.evaluate("[...document.querySelectorAll('#view input')].map((i) => i.value).join()"));
				if (view !== "why") assert.ok(shown.includes(MARKUP.slice(0, 12)), `${view}: ${shown}`);
				if (view === "devices") {
					await page
						.locator("tr", { hasText: MARKUP.slice(0, 40) })
						.getByRole("checkbox")
						.click();
					await page.waitForSelector(".modal");
					assert.ok((await page.locator(".modal").innerText()).includes(MARKUP));
				}
				assert.equal(await page.locator("#view img, .modal img, #view script:not(:text('require'))").count(), 0, view);
				assert.equal(await page.evaluate("window.owned"), undefined, view);
				await context.close();
			}
		},
	],
	[
		"the overview says in a sentence how it goes, and a refresh asks for little",
		async (w) => {
			const { traffic } = w.served;
			const began = Date.now();
			const { page, context } = await open(w, "overview");
			const painted = Date.now() - began;
			assert.match(
				await text(page),
				new RegExp(`masqd translates for ${HOSTS} devices behind 203\\.0\\.113\\.1: \\d+ of ${SESSIONS} sessions`),
			);
			assert.match(await text(page), /double NAT/);
			await page.waitForTimeout(500);
			traffic.bytes = 0;
			traffic.calls = [];
			await page.waitForResponse(() => true, { timeout: 10_000 });
			await page.waitForTimeout(500);
			console.log(`    painted in ${painted} ms; a refresh is ${traffic.bytes} bytes (${traffic.calls.join(", ")})`);
			assert.ok(traffic.bytes > 0 && traffic.bytes <= 30 * 1024, `${traffic.bytes} bytes`);
			await context.close();
		},
	],
	[
		"the line has a verdict when somebody asks, and nobody else's server is named",
		async (w) => {
			const { page, context } = await open(w, "overview");
			await page.getByRole("button", { name: "What is it?" }).click();
			await page.getByText("NAT type: moderate").waitFor();
			assert.ok((await text(page)).includes("<b>203.0.113.1</b>"));
			await page.getByLabel("STUN server").fill("a.example; reboot");
			await page.getByRole("button", { name: "What is it?" }).click();
			await page.getByText("no name or address").waitFor();
			await context.close();
		},
	],
	[
		"a remedy is shown as what uci would be told, and nothing is written before it is applied",
		async (w) => {
			const { page, context } = await open(w, "overview");
			await page.locator("tr", { hasText: "spoofed-source" }).getByRole("button").click();
			await page.waitForSelector(".modal");
			assert.match(await page.locator(".modal").innerText(), /uci add_list masqd\.@lan\[0\]\.subnet='10\.9\.9\.0\/24'/);
			const before = w.served.uci.applied;
			await page.getByRole("button", { name: "Cancel" }).click();
			await page.waitForFunction("!document.body.classList.contains('modal-overlay-active')");
			assert.equal(w.served.uci.applied, before);
			await context.close();
		},
	],
	[
		"the switch opens NAT for a device, and closes it",
		async (w) => {
			const { page, context } = await open(w, "devices");
			const row = page.locator("tr", { hasText: "games console" });
			await row.getByRole("checkbox").click();
			await page.waitForSelector(".modal");
			const shown = await page.locator(".modal").innerText();
			for (const line of [
				"uci add masqd host",
				"uci set masqd.@host[-1].ip='192.168.1.12'",
				"uci set masqd.@host[-1].filtering='endpoint-independent'",
			])
				assert.ok(shown.includes(line), shown);
			await page.locator(".modal").getByRole("button", { name: "Apply" }).click();
			await page.waitForFunction("!document.body.classList.contains('modal-overlay-active')");
			for (let n = 0; n < 50 && !w.served.uci.config.masqd.some((s) => s[".type"] === "host"); n++) await page.waitForTimeout(100);
			const { ".name": _, ...host } = w.served.uci.config.masqd.find((s) => s[".type"] === "host") ?? {};
			assert.deepEqual(host, { ".type": "host", ip: "192.168.1.12", filtering: "endpoint-independent" });
			await context.close();
		},
	],
	[
		"devices have what each has moved, by day and by hour, and a bar an hour",
		async (w) => {
			const { page, context, errors } = await open(w, "devices");
			const row = page.locator("tr", { hasText: "games console" }).last();
			await page.getByText("Received in 7 days").waitFor();
			assert.equal(await row.locator(".masqd-times > div").count(), 7);
			assert.match((await row.innerText()).replace(/\s+/g, " "), /games console.* 192\.168\.1\.12 [\d.]+ kB 0 B [\d.]+ kB 0 B/);
			await page.getByLabel("By", { exact: true }).selectOption("hour");
			await page.getByText("Received in 24 hours").waitFor();
			assert.equal(await row.locator(".masqd-times > div").count(), 24);
			assert.match(String(await row.locator(".masqd-times > div").last().getAttribute("title")), /^\d{4}-\d\d-\d\d \d\d:00: [\d.]+\skB$/);
			assert.deepEqual(errors, []);
			await context.close();
		},
	],
	[
		"connections go page by page, in an order, by a search",
		async (w) => {
			const { page, context } = await open(w, "connections");
			const rows = () => page.locator("#view tr:not(.table-titles)").count();
			assert.equal(await rows(), 50);
			const times: number[] = [];
			const first = await text(page);
			for (let n = 0; n < 5; n++) {
				const began = Date.now();
				const shown = page.getByText(`page ${n + 2}`);
				await page.getByRole("button", { name: "Next" }).click();
				await shown.waitFor();
				times.push(Date.now() - began);
			}
			assert.notEqual(await text(page), first);
			times.sort((a, b) => a - b);
			console.log(`    a page in ${times[2]} ms of ${w.served.rig.table.used} sessions`);
			await page.getByRole("button", { name: "Back" }).click();
			await page.getByText("page 5").waitFor();
			for (const [search, expected] of [
				["192.168.1.11:20000", /1 of \d+ sessions match/],
				["games :443", /\d+ of \d+ sessions match/],
				["tcp", /0 of \d+ sessions match/],
				["nonsense", /is not a state/],
			] as const) {
				await page.getByRole("textbox").fill(search);
				await page.getByRole("button", { name: "Search" }).click();
				await page.getByText(expected).waitFor();
			}
			await context.close();
		},
	],
	[
		"one session ends by its button",
		async (w) => {
			const { page, context } = await open(w, "connections");
			await page.getByRole("textbox").fill("192.168.1.30:20001");
			await page.getByRole("button", { name: "Search" }).click();
			await page.getByText(/^1 of/).waitFor();
			const { used } = w.served.rig.table;
			await page.getByRole("button", { name: "End" }).click();
			await page.getByText(/^0 of/).waitFor();
			assert.equal(w.served.rig.table.used, used - 1);
			await context.close();
		},
	],
	[
		"why tells every decision, and the lines that would change it",
		async (w) => {
			const { page, context } = await open(w, "why");
			await page.getByLabel("From", { exact: true }).fill("192.168.1.10:5000");
			await page.getByLabel("To", { exact: true }).fill("203.0.113.10:53");
			await page.getByRole("button", { name: "Explain" }).click();
			await page.getByText(/Forwarded as 203\.0\.113\.1:\d+ to 203\.0\.113\.10:53/).waitFor();
			await page.locator("tr", { hasText: "filtered" }).first().getByRole("button", { name: "Why?" }).click();
			await page.getByText("Dropped:").waitFor();
			await page.getByText("<b>").count();
			await page.getByLabel("From", { exact: true }).fill("<img src=x>");
			await page.getByRole("button", { name: "Explain" }).click();
			await page.locator(".alert-message", { hasText: "<img src=x>" }).waitFor();
			assert.equal(await page.locator("#view img").count(), 0);
			await context.close();
		},
	],
	[
		"forwards of all makers stand in one list",
		async (w) => {
			const { page, context } = await open(w, "forwards");
			const shown = await text(page);
			for (const word of ["2222", "camera", "8443", "203.0.113.1:4000", "PCP", "firewall4", "miniupnpd"])
				assert.ok(shown.includes(word), word);
			await context.close();
		},
	],
	[
		"settings have every option of the daemon, and save",
		async (w) => {
			const { page, context, errors } = await open(w, "settings");
			await page.locator("h3", { hasText: "Timeouts" }).waitFor();
			const option = page.locator('[id="widget.cbid.masqd.main.max_rate"]');
			await option.fill("250");
			await page.getByText("Save & Apply").first().click();
			for (let n = 0; n < 80 && w.served.uci.config.masqd[0].max_rate !== "250"; n++) await page.waitForTimeout(100);
			assert.equal(w.served.uci.config.masqd[0].max_rate, "250");
			assert.deepEqual(errors, []);
			await context.close();
		},
	],
	[
		"who may only read changes nothing, whatever is clicked or called",
		async (w) => {
			const { traffic, uci } = w.served;
			const before = [uci.applied, JSON.stringify(uci.config), w.served.rig.table.used];
			const { page, context } = await open(w, "devices", "reader");
			assert.ok((await page.getByRole("checkbox").count()) > 0);
			for (const box of await page.getByRole("checkbox").all()) assert.ok(await box.isDisabled());
			traffic.refused = [];
			for (const call of [
				["masqd", "flush", { what: "all" }],
				["masqd", "selftest", {}],
				["masqd", "nat_type", {}],
				["uci", "set", { config: "masqd", section: "main", values: { enabled: "0" } }],
				["uci", "apply", {}],
			]) {
				const frame = JSON.stringify({ id: 1, method: "call", params: ["reader", ...call] });
				const asked = await page.request.post(`${new URL(w.served.url).origin}/cgi-bin/luci/admin/ubus`, { data: frame });
				const reply = (await asked.json()) as { error: { code: number } };
				assert.equal(reply.error.code, -32002, String(call));
			}
			await page.goto(`${w.served.url}/connections`);
			await page.waitForSelector("#view tr");
			assert.equal(await page.getByRole("button", { name: "End" }).count(), 0);
			assert.deepEqual([uci.applied, JSON.stringify(uci.config), w.served.rig.table.used], before);
			await context.close();
		},
	],
	[
		"of a full table the overview is a second's work at most, and a page of connections 300 ms'",
		async (w) => {
			const { rig, traffic } = w.served;
			fillUp(rig);
			assert.equal(rig.table.used, SESSIONS);
			const context = await w.browser.newContext({ viewport: { width: 1280, height: 900 } });
			await context.addCookies([{ name: "sysauth", value: "owner", domain: "127.0.0.1", path: "/" }]);
			const page = await context.newPage();
			traffic.bytes = 0;
			traffic.calls = [];
			let began = Date.now();
			let spent = await work(page);
			await page.goto(`${w.served.url}/overview`);
			await page.waitForSelector(".masqd-card");
			const painted = await spent();
			console.log(
				`    painted in ${Date.now() - began} ms, ${painted.toFixed(0)} of them work; ${traffic.calls.join(", ")}: ${traffic.bytes} bytes`,
			);
			assert.ok(painted <= 1000, `${painted} ms`);
			// Nothing is asked for twice, and nothing for each session or host.
			assert.ok(traffic.calls.length <= 6, String(traffic.calls));
			assert.equal(new Set(traffic.calls).size, traffic.calls.length, String(traffic.calls));
			assert.ok(traffic.bytes <= 30 * 1024, `${traffic.bytes} bytes`);

			await page.goto(`${w.served.url}/connections`);
			await page.getByText(`${SESSIONS} sessions, page 1`).waitFor();
			traffic.bytes = 0;
			began = Date.now();
			spent = await work(page);
			const pages = 10;
			for (let n = 0; n < pages; n++) {
				await page.getByRole("button", { name: "Next" }).click();
				await page.getByText(`${SESSIONS} sessions, page ${n + 2}`).waitFor();
			}
			const each = (await spent()) / pages;
			console.log(
				`    a page in ${(Date.now() - began) / pages} ms, ${each.toFixed(0)} of them work; ${Math.round(traffic.bytes / pages)} bytes`,
			);
			assert.ok(each <= 300, `${each} ms`);
			assert.ok(traffic.bytes / pages <= 30 * 1024, `${traffic.bytes / pages} bytes`);
			await context.close();
		},
	],
	[
		"without a daemon every page says so",
		async (w) => {
			w.served.close();
			const folder = mkdtempSync(join(tmpdir(), "masqd-luci-"));
			w.served = await serve({ ...OPTIONS, socket: join(folder, "gone") });
			w.served.silence();
			for (const view of ["overview", "devices", "connections", "why", "forwards"]) {
				const { page, errors, context } = await open(w, view);
				assert.match(await text(page), /masqd is not running/, view);
				assert.deepEqual(errors, [], view);
				await context.close();
			}
			rmSync(folder, { recursive: true });
		},
	],
];

const OPTIONS = {
	files: join(ROOT, "build/luci"),
	resources: REAL ?? join(ROOT, "test/luci/harness"),
	program: join(ROOT, "build/masqd"),
	natType: `printf '{"type":"moderate","line":["The WAN has <b>203.0.113.1</b>."],"change":["Ask."]}'`,
	real: REAL !== undefined,
};

/** Those of the README: openwrt/luci/pictures. */
async function pictures(w: World): Promise<void> {
	const folder = join(ROOT, "openwrt/luci/pictures");
	mkdirSync(folder, { recursive: true });
	w.served.names["192.168.1.11"] = "laptop";
	w.served.names["192.168.1.12"] = "games-console";
	const shot = async (view: string, height: number, before: (page: Page) => Promise<void>) => {
		const { page, context } = await open(w, view, "owner", 820);
		await page.setViewportSize({ width: 820, height });
		await before(page);
		await page.screenshot({ path: join(folder, `${view}.png`) });
		await context.close();
	};
	await shot("overview", 520, (page) => page.waitForTimeout(12_500));
	await shot("why", 470, async (page) => {
		await page.locator("tr", { hasText: "filtered" }).first().getByRole("button", { name: "Why?" }).click();
		await page.waitForSelector(".masqd-steps li");
	});
	await shot("devices", 420, async (page) => {
		await page.locator("tr", { hasText: "games-console" }).getByRole("checkbox").click();
		await page.waitForSelector(".modal");
	});
}

async function main(part = ""): Promise<void> {
	mkdirSync(SHOTS, { recursive: true });
	const folder = mkdtempSync(join(tmpdir(), "masqd-luci-"));
	const served = await serve({ ...OPTIONS, socket: join(folder, "sock") });
	const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
	const world: World = { served, browser };
	let passed = 0;
	let failed = 0;
	if (part === "--pictures") {
		await pictures(world);
		process.exit(0);
	}
	for (const [name, run] of TESTS) {
		if (!name.includes(part)) continue;
		try {
			await run(world);
			passed++;
			console.log(`ok   ${name}`);
		} catch (error) {
			failed++;
			console.log(`FAIL ${name}\n${(error as Error).stack}`);
			await Promise.all(world.browser.contexts().map((context) => context.close()));
		}
	}
	await browser.close();
	world.served.close();
	rmSync(folder, { recursive: true, force: true });
	console.log(`${passed} passed, ${failed} failed`);
	process.exit(failed === 0 ? 0 : 1);
}

await main(process.argv[2]);
