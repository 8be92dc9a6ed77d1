# The editor behind the stand-in of uci, and with command=shell what config_load evaluates.

function words(line,    i, c, n, quote, inside, w) {
	n = 0; inside = 0; quote = ""; w = ""
	for (i = 1; i <= length(line); i++) {
		c = substr(line, i, 1)
		if (quote != "") { if (c == quote) quote = ""; else w = w c; continue }
		if (c == "'" || c == "\"") { quote = c; inside = 1; continue }
		if (c == "#" && !inside) break
		if (c == " " || c == "\t") { if (inside) { word[++n] = w; w = ""; inside = 0 } continue }
		w = w c; inside = 1
	}
	if (inside) word[++n] = w
	return n
}

# Reads the file: sections 1..S of type T, name N; lines of each with option O, kind K and value V.
{
	n = words($0)
	# As uci reads it: comments and blank lines are forgotten, and gone after the first commit.
	if (n == 0) next
	if (word[1] == "config") { S++; T[S] = word[2]; N[S] = n > 2 ? word[3] : ""; count[T[S]]++; next }
	L = ++lines[S]; K[S, L] = word[1]; O[S, L] = word[2]; V[S, L] = word[3]
}

function find(path,    type, number, s, seen) {
	if (substr(path, 1, 1) != "@") {
		for (s = 1; s <= S; s++) if (N[s] == path) return s
		return 0
	}
	type = substr(path, 2, index(path, "[") - 2)
	number = substr(path, index(path, "[") + 1) + 0
	if (number < 0) number += count[type]
	for (s = 1; s <= S; s++) if (T[s] == type && seen++ == number) return s
	return 0
}

function label(s,    i, at) {
	if (N[s] != "") return N[s]
	for (i = 1; i < s; i++) if (T[i] == T[s]) at++
	return "@" T[s] "[" at + 0 "]"
}

function value_of(s, name, separator,    i, text, any) {
	for (i = 1; i <= lines[s]; i++)
		if (K[s, i] != "gone" && O[s, i] == name) { text = any ? text separator V[s, i] : V[s, i]; any = 1 }
	return any ? text : "\001"
}

function quoted(text) { gsub(/'/, "'\\''", text); return "'" text "'" }

function show(s,    i, done) {
	print package "." label(s) "=" T[s]
	for (i = 1; i <= lines[s]; i++) {
		if (K[s, i] == "gone" || (O[s, i] in done)) continue
		done[O[s, i]] = 1
		print package "." label(s) "." O[s, i] "='" value_of(s, O[s, i], "' '") "'"
	}
}

function dump(    s, i) {
	for (s = 1; s <= S; s++) {
		if (T[s] == "") continue
		print "\nconfig " T[s] (N[s] == "" ? "" : " '" N[s] "'")
		for (i = 1; i <= lines[s]; i++)
			if (K[s, i] != "gone") print "\t" K[s, i] " " O[s, i] " '" V[s, i] "'"
	}
}

function shell(    s, i, id, done) {
	printf "CONFIG_SECTIONS='"
	for (s = 1; s <= S; s++) printf " %s", (N[s] == "" ? "cfg" s : N[s])
	print "'"
	for (s = 1; s <= S; s++) {
		id = N[s] == "" ? "cfg" s : N[s]
		print "CONFIG_" id "_TYPE=" quoted(T[s])
		for (i = 1; i <= lines[s]; i++) print "CONFIG_" id "_" O[s, i] "=" quoted(value_of(s, O[s, i], " "))
	}
}

END {
	if (command == "shell") { shell(); exit 0 }
	if (command == "add") { S++; T[S] = type; dump(); exit 0 }
	s = find(section)
	if (command == "show" && section == "") { for (s = 1; s <= S; s++) show(s); exit 0 }
	if (command == "set" && option == "" && s == 0) { S++; T[S] = value; N[S] = section; dump(); exit 0 }
	if (s == 0) exit 1
	if (command == "get") {
		found = option == "" ? T[s] : value_of(s, option, " ")
		if (found == "\001") exit 1
		print found; exit 0
	}
	if (command == "show") { show(s); exit 0 }
	if (command == "delete") {
		if (option == "") T[s] = ""
		else for (i = 1; i <= lines[s]; i++) if (O[s, i] == option) K[s, i] = "gone"
		dump(); exit 0
	}
	if (command == "set") {
		for (i = 1; i <= lines[s]; i++) if (O[s, i] == option) { V[s, i] = value; dump(); exit 0 }
	}
	at = ++lines[s]
	K[s, at] = command == "add_list" ? "list" : "option"; O[s, at] = option; V[s, at] = value
	dump()
}
