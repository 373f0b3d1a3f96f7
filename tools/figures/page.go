package main

import (
	"fmt"
	"strings"
)

const pageHead = `# Figures

What the project promises, as last measured. ` + "`make figures`" + ` measures again; ` + "`go run ./tools/figures --write`" + ` writes this
page, which is not edited by hand. The goals stand in tools/figures/table.go. CPU times are user and system of the whole process with
GOMAXPROCS=1, medians of several runs; x25519-us/op beside them is one operation of the standard library's X25519 at the same time, which
tells a slow or busy machine from slow code.

| Figure | Value | Unit | Goal | Met | Beside | Date | Machine |
|---|---|---|---|---|---|---|---|
`

// page is docs/figures.md: the new values, the kept rows of figures that were
// not measured now, nothing of figures that are in the table no more.
func page(all []figure, kept map[string]string, values map[string]measured, m machine) string {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, f := range all {
		row := kept[f.name]
		if v, ok := values[f.name]; ok {
			met := "yes"
			if !f.met(v.value) {
				met = "no"
			}
			row = fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", f.name, number(v.value), f.unit, f.goal(), met, v.beside, m.date.Format("2006-01-02"), m)
		}
		b.WriteString(row)
	}
	b.WriteString("\n")
	for _, f := range all {
		fmt.Fprintf(&b, "- **%s**: %s\n", f.name, f.what)
	}
	return b.String()
}

// kept are the rows of an older page, by the figure's name.
func kept(old string) map[string]string {
	rows := map[string]string{}
	for line := range strings.Lines(old) {
		if cells := strings.Split(line, "|"); len(cells) == 10 && strings.HasSuffix(line, "|\n") {
			rows[strings.TrimSpace(cells[1])] = line
		}
	}
	return rows
}
