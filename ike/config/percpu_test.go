package config

import (
	"testing"

	"espalier/ike/sa"
)

func TestPerCPU(t *testing.T) {
	for text, want := range map[string]sa.PerCPU{
		"": sa.PerCPUAuto, "per_cpu_sas = no": sa.PerCPUNo, "per_cpu_sas = yes": sa.PerCPUYes,
		"per_cpu_sas = encap": sa.PerCPUEncap, "per_cpu_sas = auto": sa.PerCPUAuto,
	} {
		cfg, err := load(box(net(text)), confPath)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := cfg.Connections[0].Children[0].PerCPU; got != want || want.String() != got.String() {
			t.Errorf("%q: %s, expected %s", text, got, want)
		}
	}
}
