package bpf

// The flags are the ones that make the objects the same on every machine with this clang: no header from outside of this folder, no path, no
// date. v3 of the instruction set is what kernels from 5.12 on understand.

//go:generate go tool bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -nostdinc -fno-builtin -Wall -Werror" -go-package bpf -no-global-types -type sa_key -type index_entry -type index_bucket -type sa_slot -type sa_counters_1 -type config -type port -type addr_key -type lpm_key -type mss_value -type token_bucket -type stranger -type cpumap_value -type drop_sample -type drop_reason -type total -type guard_mode -type steer_mode -type flow_mode layout layout.c
//go:generate go tool bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -nostdinc -fno-builtin -Wall -Werror" -go-package bpf -no-global-types check check.c
//go:generate go tool bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -nostdinc -fno-builtin -Wall -Werror" -go-package bpf -no-global-types xdp xdp.c
//go:generate go tool bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -nostdinc -fno-builtin -Wall -Werror" -go-package bpf -no-global-types tc tc.c
//go:generate go tool bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -nostdinc -fno-builtin -Wall -Werror" -go-package bpf -no-global-types drops drops.c
