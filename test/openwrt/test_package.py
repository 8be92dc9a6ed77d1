"""The packages and the release: what is in them, that they are reproducible, and that a feed can build from them."""

import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUNDLES = ("masqd", "core", "tools", "client", "config", "ftp", "inspect", "offload", "kernel-carrier", "hand-over", "bans", "accounts")
# ELF machine, byte order and emulator of each feed architecture.
ARCHITECTURES = {
    "mips_24kc": (8, ">", "qemu-mips-static"),
    "mipsel_24kc": (8, "<", "qemu-mipsel-static"),
    "arm_cortex-a7_neon-vfpv4": (40, "<", "qemu-arm-static"),
    "aarch64_cortex-a53": (183, "<", "qemu-aarch64-static"),
    "x86_64": (62, "<", None),
}


def ipk(arch):
    [package] = ROOT.glob(f"build/masqd_*_{arch}.ipk")
    return package


def part(arch, name):
    with tarfile.open(ipk(arch)) as package:
        return tarfile.open(fileobj=io.BytesIO(package.extractfile(f"./{name}").read()))


def luci_part(name):
    [package] = ROOT.glob("build/luci-app-masqd_*_all.ipk")
    with tarfile.open(package) as outer:
        return tarfile.open(fileobj=io.BytesIO(outer.extractfile(f"./{name}").read()))


def run(*words, **more):
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, **more).stdout


@pytest.fixture(params=ARCHITECTURES)
def arch(request):
    return request.param


def test_parts_in_the_order_that_opkg_reads_them(arch):
    with tarfile.open(ipk(arch)) as package:
        assert package.getnames() == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
        assert package.extractfile("./debian-binary").read() == b"2.0\n"


def test_control(arch):
    with part(arch, "control.tar.gz") as control:
        fields = dict(
            line.split(": ", 1) for line in control.extractfile("./control").read().decode().splitlines() if not line.startswith(" ") and ": " in line
        )
        modules = "kmod-tun, kmod-nft-nat, kmod-nft-queue, kmod-nf-conntrack-netlink"
        assert (fields["Package"], fields["Architecture"], fields["Depends"]) == ("masqd", arch, f"{modules}, nftables")
        assert ipk(arch).name == f"masqd_{fields['Version']}_{arch}.ipk"
        with part(arch, "data.tar.gz") as data:
            assert int(fields["Installed-Size"]) == sum(m.size for m in data.getmembers())
            installed = [m.name.removeprefix(".") for m in data.getmembers()]
        assert set(control.extractfile("./conffiles").read().decode().split()) <= set(installed)
        for script in "postinst", "prerm":
            assert control.getmember(f"./{script}").mode == 0o755
            assert f"default_{script} $0 $@" in control.extractfile(f"./{script}").read().decode()


def test_makefile_is_fit_for_a_feed():
    """What reviewers of OpenWrt's packages ask for; the sum and the place of the release are filled in by `make dist`."""
    text = (ROOT / "openwrt/Makefile").read_text()
    assert re.search(r"^PKG_MAINTAINER:=.+ <\S+@\S+>$", text, re.M)
    assert re.search(r"^# Copyright \(C\) \d{4} .+$", text, re.M) and text.startswith("# SPDX-License-Identifier: MIT\n")
    assert re.search(r"^  URL:=", text, re.M) and "file://" not in text
    fields = [line.split(":=")[0] for line in text.splitlines() if re.match(r"PKG_\w+:=", line)]
    order = ["PKG_NAME", "PKG_VERSION", "PKG_RELEASE", "PKG_SOURCE", "PKG_SOURCE_URL", "PKG_HASH", "PKG_MAINTAINER", "PKG_LICENSE", "PKG_LICENSE_FILES"]
    assert fields[: len(order)] == order
    assert text.endswith("$(eval $(call BuildPackage,masqd))\n$(eval $(call BuildPackage,luci-app-masqd))\n")
    # What the SDK puts into the package is what `make ipk` puts there.
    for script, name in (("masqd/postinst", "postinst-pkg"), ("masqd/postrm", "postrm"), ("luci-app-masqd/postinst", "luci/postinst-pkg")):
        defined = text.split(f"define Package/{script}\n")[1].split("endef")[0].replace("$$", "$")
        written = "".join(line for line in (ROOT / "openwrt" / name).read_text().splitlines(True) if not re.match("# ", line))
        assert defined == written


def test_workflow_builds_every_architecture_for_both_package_managers():
    text = (ROOT / ".github/workflows/packages.yml").read_text()
    [listed] = re.findall(r"arch: \[(.*)\]", text)
    assert set(listed.split(", ")) == set(ARCHITECTURES)
    assert 'release: ["25.12", "24.10"]' in text and "has not run yet" in text
    assert "KEY_BUILD: ${{ secrets.KEY_BUILD }}" in text and "PRIVATE_KEY: ${{ secrets.PRIVATE_KEY }}" in text and "INDEX: 1" in text


def test_files_are_those_of_openwrt_files_and_the_program(arch):
    with part(arch, "data.tar.gz") as data:
        members = {m.name.removeprefix("./"): m for m in data.getmembers() if m.isfile()}
    overlay = {str(p.relative_to(ROOT / "openwrt/files")) for p in (ROOT / "openwrt/files").rglob("*") if p.is_file()}
    assert set(members) == overlay | {"usr/sbin/masqd", *(f"usr/share/masqd/{name}.qbc" for name in BUNDLES)}
    for name, member in members.items():
        executable = name == "usr/sbin/masqd" or name.startswith("etc/init.d/") or os.access(ROOT / "openwrt/files" / name, os.X_OK)
        assert member.mode == (0o600 if name == "etc/config/masqd" else 0o755 if executable else 0o644), name
        assert (member.uid, member.gid) == (0, 0)


def test_the_pages_are_a_package_of_their_own():
    with luci_part("control.tar.gz") as control:
        fields = dict(line.split(": ", 1) for line in control.extractfile("./control").read().decode().splitlines() if ": " in line)
        assert control.getmember("./postinst-pkg").mode == 0o755 and "./conffiles" not in control.getnames()
    assert (fields["Package"], fields["Architecture"]) == ("luci-app-masqd", "all")
    assert "rpcd-mod-ucode" in fields["Depends"] and "masqd" in fields["Depends"].split(", ")
    [package] = ROOT.glob("build/luci-app-masqd_*_all.ipk")
    assert package.name == f"luci-app-masqd_{fields['Version']}_all.ipk" and package.stat().st_size <= 40 * 1024
    with luci_part("data.tar.gz") as data:
        members = {m.name.removeprefix("./"): m for m in data.getmembers() if m.isfile()}
        menu = json.load(data.extractfile("./usr/share/luci/menu.d/luci-app-masqd.json"))
    for name, member in members.items():
        assert (member.mode, member.uid) == (0o755 if name.startswith("usr/libexec/") else 0o644, 0), name
    assert "usr/share/rpcd/ucode/masqd" in members
    views = [entry["action"]["path"] for entry in menu.values() if entry["action"]["type"] == "view"]
    assert len(views) == 6 and all(f"www/luci-static/resources/view/{view}.js" in members for view in views)


def test_the_template_of_translations_has_every_text():
    assert run("node", "openwrt/luci/generate.mjs", "--pot") == (ROOT / "openwrt/luci/po/templates/masqd.pot").read_text(), "make po"


def test_executable(arch):
    machine, order, _ = ARCHITECTURES[arch]
    with part(arch, "data.tar.gz") as data:
        image = data.extractfile("./usr/sbin/masqd").read()
    assert struct.unpack(f"{order}H", image[18:20]) == (machine,)
    assert image[5] == (1 if order == "<" else 2)
    wide = image[4] == 2
    at, size, count = struct.unpack(order + ("Q" if wide else "I"), image[32:40] if wide else image[28:32])[0], *struct.unpack(
        f"{order}HH", image[54:58] if wide else image[42:46]
    )
    kinds = [struct.unpack(f"{order}I", image[at + n * size : at + n * size + 4])[0] for n in range(count)]
    assert 1 in kinds and 2 not in kinds and 3 not in kinds, "loads by itself: no interpreter, nothing dynamic"
    assert str(ROOT).encode() not in image


def test_package_runs(arch, tmp_path):
    """What OpenWrt's own package tests would do, with the installed files."""
    with part(arch, "data.tar.gz") as data:
        data.extractall(tmp_path)
    emulator = ARCHITECTURES[arch][2]
    path = tmp_path / "bin"
    path.mkdir()
    program = f"{emulator or ''} {tmp_path}/usr/sbin/masqd".strip()
    (path / "masqd").write_text(
        f'#!/bin/sh\nexport MASQD_JS={tmp_path}/usr/share/masqd\n[ "$1" != check ] || set -- check -c {tmp_path}/etc/config/masqd\nexec {program} "$@"\n'
    )
    (path / "masqd").chmod(0o755)
    version = ipk(arch).name.split("_")[1]
    run("openwrt/test.sh", "masqd", version, env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"})


def test_packing_again_gives_the_same_bytes(arch, tmp_path):
    packed = []
    for zone, locale in ("UTC", "C.UTF-8"), ("Asia/Tokyo", "C"):
        run("openwrt/ipk.sh", arch, env={**os.environ, "TZ": zone, "LC_ALL": locale})
        packed.append(ipk(arch).read_bytes())
    assert packed[0] == packed[1]


def test_bytecode_of_another_byte_order_is_refused(tmp_path):
    swapped = tmp_path / "masqd.qbc"
    with part("mips_24kc", "data.tar.gz") as data:
        swapped.write_bytes(data.extractfile("./usr/share/masqd/masqd.qbc").read())
    for program in ["build/x86_64/masqd"], ["build/masqd"], ["qemu-mipsel-static", "build/mipsel_24kc/masqd"]:
        ended = subprocess.run([*program, "--version"], cwd=ROOT, env={**os.environ, "MASQD_JS": str(swapped)}, capture_output=True, text=True)
        assert ended.returncode == 1
        assert "is not bytecode of this program's engine" in ended.stderr


def test_release_builds_its_own_bundle_and_a_feed_builds_from_it(tmp_path):
    """`make dist`, then openwrt/Makefile as `make dist` filled it in, in a stand-in of the SDK."""
    output = run("openwrt/dist.sh", env={**os.environ, "MASQD_HOME": "https://example.org/masqd"})
    for name in BUNDLES:
        assert f"{name}.js: as the source in the release builds it" in output
    release, digest = output.splitlines()[-1].split()
    assert hashlib.sha256((ROOT / release).read_bytes()).hexdigest() == digest

    sdk = tmp_path / "sdk"
    shutil.copytree(ROOT / "test/openwrt/sdk", sdk)
    (sdk / "dl").mkdir()
    shutil.copy(ROOT / release, sdk / "dl")
    (sdk / "sums").write_text(f"{digest}  {release}\n")
    # Of the SDK's two downloads the engine's is not tried: its source is put where the build looks first.
    makefile = (ROOT / "build/feed/masqd/Makefile").read_text()
    assert f"PKG_HASH:={digest}\n" in makefile and "MASQD_HOME:=https://example.org/masqd\n" in makefile
    engine = next((ROOT / "build").glob("quickjs-*"))
    place = f"mkdir -p $(PKG_BUILD_DIR)/build && cp -pR {engine} $(PKG_BUILD_DIR)/build/ && touch $(PKG_BUILD_DIR)/build/{engine.name}/.verified"
    (sdk / "Makefile").write_text(makefile.replace("define Build/Configure\n", f"define Build/Configure\n\t{place}\n"))
    built = subprocess.run(
        ["make", "-C", sdk, f"TOPDIR={sdk}"], capture_output=True, text=True, env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    with luci_part("data.tar.gz") as data:
        pages = sdk / "root/luci-app-masqd"
        assert {str(p.relative_to(pages)): p.read_bytes() for p in pages.rglob("*") if p.is_file()} == {
            m.name.removeprefix("./"): data.extractfile(m).read() for m in data.getmembers() if m.isfile()
        }
    root = sdk / "root/masqd"
    with part("x86_64", "data.tar.gz") as data:
        assert {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} == {m.name.removeprefix("./") for m in data.getmembers() if m.isfile()}
    for name in BUNDLES:
        shutil.copy(root / f"usr/share/masqd/{name}.qbc", root / "usr/sbin/")
    assert run(root / "usr/sbin/masqd", "--version").startswith("masqd ")
