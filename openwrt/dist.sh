#!/bin/sh
# Makes the release build/masqd-VERSION.tar.xz: the source as committed, and in dist/ the bundle, for those who have no
# Node. Proves of the finished file that the bundle in it is byte for byte what the source in it builds, and that
# another packing gives the same file. Beside it goes build/feed/masqd, a feed's folder with this release's sum.
#
#   [MASQD_HOME=URL] openwrt/dist.sh        URL: where the project is published, its releases below releases/download/
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/.*"version": "\(.*\)",/\1/p' package.json)
name=masqd-$version
release=build/$name.tar.xz
epoch=$(git log -1 --format=%ct)

[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "dist.sh: what is not committed is not in the release" >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The bundle of the source in folder $1.
bundle() {
	[ -e "$1/node_modules" ] || ln -s "$PWD/node_modules" "$1/node_modules"
	make -s -C "$1" -o node_modules/.ready bundle build/luci/.made
	rm "$1/node_modules"
}

pack() {
	tar -c --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --mode=u+rw,go-w,go+rX -C "$1" "$name" | xz -T1 -9e
}

mkdir -p "$work/first" "$work/second" "$work/proof"
git archive --format=tar --prefix="$name/" HEAD | tar -x -C "$work/first"
cp -R "$work/first/$name" "$work/source"
bundle "$work/source"
mkdir "$work/first/$name/dist"
cp "$work/source"/build/*.js "$work/first/$name/dist/"
cp -R "$work/source/build/luci" "$work/first/$name/dist/luci"
rm "$work/first/$name/dist/luci/.made"
(cd "$work/first/$name/dist" && sha256sum -- *.js > sha256sums)
pack "$work/first" > "$release.new"
mv "$release.new" "$release"

tar -x -J -f "$release" -C "$work/proof"
bundle "$work/proof/$name"
for file in "$work/proof/$name"/dist/*.js; do
	cmp "$file" "$work/proof/$name/build/${file##*/}" || exit 1
	echo "${file##*/}: as the source in the release builds it"
done
diff -r -x .made "$work/proof/$name/dist/luci" "$work/proof/$name/build/luci"
rm -rf "$work/proof/$name/build"
pack "$work/proof" | cmp - "$release"

rm -rf build/feed/masqd
mkdir -p build/feed/masqd
sum=$(sha256sum "$release" | cut -d ' ' -f 1)
sed "s/^PKG_VERSION:=.*/PKG_VERSION:=$version/; s/^PKG_HASH:=.*/PKG_HASH:=$sum/; s|^MASQD_HOME:=.*|MASQD_HOME:=${MASQD_HOME:-https://masqd.example}|" \
	openwrt/Makefile > build/feed/masqd/Makefile
cp openwrt/test.sh build/feed/masqd/
echo "$release $sum"
