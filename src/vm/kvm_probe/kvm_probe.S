/*
 * A 4 KiB firmware that tells whether an accelerator can run an ordinary
 * operating system. Opening /dev/kvm proves little: there are hosts whose KVM
 * only runs paravirtualised kernels natively and feeds all other kernel code
 * to an instruction emulator, at a thousandth of the speed. A guest then
 * neither boots nor fails.
 *
 * Use: write 60 KiB of zeros and the bytes isr_kvm_probe_begin..end to a file
 * and start (-cpu and -machine as for the real guest)
 *
 *   qemu-system-x86_64 -accel kvm -m 16 -nodefaults -no-user-config
 *     -display none -no-reboot -bios FILE
 *     -device isa-debug-exit,iobase=0xf4,iosize=1
 *     [-debugcon file:LOG]   one letter per step begun, to see where it stopped
 *
 *   exit 85     everything worked
 *   exit 2n+1   step n (A=1 .. J=10) gave a wrong answer or an exception
 *   exit 0      triple fault;  1: QEMU refused;  else: killed
 *   no exit within the time-out: as good as no KVM
 *
 * It replaces the BIOS, so it starts at the reset vector within milliseconds
 * and depends on nothing. Steps: A protected mode, B long mode in the upper
 * half, C MSRs, SSE and cmpxchg16b, D page tables and invlpg, E page fault, F time stamp
 * counter, G PIT interrupt wakes hlt, H local APIC timer, I user mode with an
 * interrupt and syscall, J speed of kernel code.
 *
 * The blob is data to its host program: it runs at kBase (32 bit) and kHigh
 * (64 bit), so every address is computed, and nothing here is relocated.
 */
        .set kBase,  0x8000
        .set kHigh,  0xffffffff80000000 + kBase
        .set kRom,   0xfffff000         /* the last 4 KiB below 4 GiB */

        .set kVars,  0x5000             /* 0: PIT ticks, 8: APIC ticks, 16: fault address */
        .set kTss,   0x6000
        .set kStack, 0x8000
        .set kIdt,   0x9000
        .set kPml4,  0xa000
        .set kPdptLow,  0xb000
        .set kPdptHigh, 0xc000
        .set kPd,    0xd000
        .set kPdApic, 0xe000
        .set kPt,    0xf000
        .set kTables, kIdt
        .set kTablesEnd, 0x10000
        .set kPageX, 0x20000            /* two pages to map back and forth */
        .set kPageY, 0x21000
        .set kWindow, 0xffffffff80200000 /* mapped by 4 KiB pages */

        .set kUser,  0x7                /* present, writable, user */
        .set kLarge, 0x87
        .set kLargeUncached, 0x9f

        .set kCode32, 0x08
        .set kData,   0x10
        .set kCode64, 0x18
        .set kUserData, 0x28 | 3
        .set kUserCode, 0x30 | 3
        .set kTssSel, 0x38

        .set kApic,  0xfee00000
        .set kGood,  42                 /* isa-debug-exit: 2 * 42 + 1 = 85 */
        .set kTicks, 5
        .set kLoops, 20000000           /* 0.02 s on a CPU, half a minute in an emulator */

        .section .rodata
        .balign 16
        .global isr_kvm_probe_begin
        .global isr_kvm_probe_end
        .hidden isr_kvm_probe_begin
        .hidden isr_kvm_probe_end
isr_kvm_probe_begin:
begin:

        .macro step n
        movb $\n, %bl                   /* bl: what fail reports */
        movb $('A' + \n - 1), %al
        outb %al, $0xe9
        .endm

        .macro high label, reg          /* 64-bit address of a label */
        movq $(\label - begin + kHigh), \reg
        .endm

/* ---- real mode ---- */
        .code16
start16:
        cli
        cld
        lgdtl %cs:(gdt_rom - begin + 0xf000)
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $kCode32, $(start32 - begin + kRom)

/* ---- protected mode: move to RAM, make the tables ---- */
        .code32
start32:
        movw $kData, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $kStack, %esp
        step 1
        movl $kRom, %esi
        movl $kBase, %edi
        movl $1024, %ecx
        rep movsl
        xorl %eax, %eax
        movl $kVars, %edi
        movl $((kStack - 0x1000 - kVars) / 4), %ecx
        rep stosl
        movl $kTables, %edi
        movl $((kTablesEnd - kTables) / 4), %ecx
        rep stosl
        movl $(in_ram - begin + kBase), %eax
        jmp *%eax
in_ram:
        lgdtl (gdt_low - begin + kBase)
        movl $(kPdptLow + kUser), kPml4
        movl $(kPdptHigh + kUser), kPml4 + 511 * 8
        movl $(kPd + kUser), kPdptLow
        movl $(kPdApic + kUser), kPdptLow + 3 * 8
        movl $(kPd + kUser), kPdptHigh + 510 * 8
        movl $kLarge, kPd
        movl $(kPt + kUser), kPd + 8
        movl $(kApic + kLargeUncached), kPdApic + 503 * 8  /* 0xfee00000 */
        movl $(kPageX + kUser), kPt
        movl $(kPageY + kUser), kPt + 8
        movl $(kStack - 16), kTss + 4                      /* RSP0 */
        movl $104 << 16, kTss + 100                        /* no I/O bitmap */

        step 2
        movl $0x620, %eax               /* PAE, OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        movl $kPml4, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx          /* EFER: SCE, LME, NXE */
        rdmsr
        orl $0x901, %eax
        wrmsr
        movl $0x80010033, %eax          /* PG, WP, NE, ET, MP, PE */
        movl %eax, %cr0
        ljmpl $kCode64, $(start64 - begin + kBase)

/* ---- long mode ---- */
        .code64
start64:
        high in_high, %rax
        jmp *%rax
in_high:
        movw $kData, %ax
        movw %ax, %ss
        movq $(kHigh - kBase + kStack), %rsp
        lgdt gdt_high(%rip)
        movw $kTssSel, %ax
        ltr %ax
        call make_idt
        movl $0xc0000080, %ecx
        rdmsr
        testl $0x400, %eax              /* LMA */
        jz fail

        step 3
        movl $0x80000001, %eax
        cpuid
        movb $3, %bl                    /* cpuid overwrote it */
        btl $29, %edx                   /* long mode is what we are in */
        jnc fail
        movl $0xc0000101, %ecx          /* GS base */
        movl $0x12345000, %eax
        movl $0xffff8000, %edx
        wrmsr
        incl %ecx                       /* the one behind swapgs */
        xorl %eax, %eax
        xorl %edx, %edx
        wrmsr
        swapgs
        rdmsr
        cmpl $0x12345000, %eax
        jne fail
        cmpl $0xffff8000, %edx
        jne fail
        movl $21, %eax
        movq %rax, %xmm0
        paddq %xmm0, %xmm0
        movq %xmm0, %rax
        cmpl $42, %eax
        jne fail
        movl $1, %eax
        cpuid
        movb $3, %bl
        btl $13, %ecx                   /* cmpxchg16b: kernels use it, emulators lack it */
        jnc 1f
        movl $kVars + 32, %edi
        xorl %eax, %eax                 /* compare rdx:rax with 0, store rcx:rbx */
        xorl %edx, %edx
        movq $0x44, %rcx
        pushq %rbx
        lock cmpxchg16b (%rdi)
        popq %rbx
        jnz fail
        cmpq $0x44, kVars + 40
        jne fail
1:
        step 4
        movq $kWindow, %rdi
        movl $0x1111, (%rdi)
        movl $0x2222, 0x1000(%rdi)
        cmpl $0x1111, kPageX
        jne fail
        cmpl $0x2222, kPageY
        jne fail
        movl $(kPageY + kUser), kPt     /* swap the two pages below the window */
        movl $(kPageX + kUser), kPt + 8
        invlpg (%rdi)
        invlpg 0x1000(%rdi)
        cmpl $0x2222, (%rdi)
        jne fail
        cmpl $0x1111, 0x1000(%rdi)
        jne fail
        testb $0x20, kPt                /* accessed */
        jz fail

        step 5
        movl $0x3333, 0x2000(%rdi)      /* not there: on_fault maps kPageX */
        cmpl $0x3333, kPageX
        jne fail
        leaq 0x2000(%rdi), %rax
        cmpq %rax, kVars + 16
        jne fail

        step 6
        rdtsc
        shlq $32, %rdx
        leaq (%rdx, %rax), %rsi
        movl $1000, %ecx
1:      loop 1b
        rdtsc
        shlq $32, %rdx
        orq %rdx, %rax
        cmpq %rsi, %rax
        jbe fail

        step 7
        movl $kApic, %edi
        movl $0x1ff, 0xf0(%rdi)         /* enable, spurious vector 0xff */
        movl $0x700, 0x350(%rdi)        /* LINT0: the PIC */
        movb $0x11, %al
        outb %al, $0x20
        movb $0x20, %al                 /* IRQ 0 is vector 0x20 */
        outb %al, $0x21
        movb $0x04, %al
        outb %al, $0x21
        movb $0x01, %al
        outb %al, $0x21
        movb $0xfe, %al                 /* only IRQ 0 */
        outb %al, $0x21
        movb $0x34, %al
        outb %al, $0x43
        movb $(1193 & 255), %al         /* 1 kHz */
        outb %al, $0x40
        movb $(1193 >> 8), %al
        outb %al, $0x40
1:      sti
        hlt
        cli
        cmpq $kTicks, kVars
        jb 1b

        step 8
        movb $0xff, %al                 /* PIC off */
        outb %al, $0x21
        movl $0xb, 0x3e0(%rdi)          /* divide by 1 */
        movl $0x20040, 0x320(%rdi)      /* periodic, vector 0x40 */
        movl $1000000, 0x380(%rdi)      /* 1 ms */
1:      sti
        hlt
        cli
        cmpq $kTicks, kVars + 8
        jb 1b

        step 9
        movl $0xc0000081, %ecx          /* STAR */
        xorl %eax, %eax
        movl $(kCode64 | 0x23 << 16), %edx
        wrmsr
        incl %ecx                       /* LSTAR */
        movl $((from_user - begin + kHigh) & 0xffffffff), %eax
        movl $(kHigh >> 32), %edx
        wrmsr
        movl $0xc0000084, %ecx          /* FMASK: interrupts off */
        movl $0x200, %eax
        xorl %edx, %edx
        wrmsr
        pushq $kUserData
        pushq $0
        pushq $0x202
        pushq $kUserCode
        pushq $(in_user - begin + kBase)
        iretq
in_user:
        movl kVars + 8, %eax
1:      cmpl kVars + 8, %eax            /* a timer interrupt came and went */
        je 1b
        movl $0x5151, %esi
        syscall
        ud2
from_user:
        movq $(kHigh - kBase + kStack), %rsp
        cmpl $0x5151, %esi
        jne fail
        movl $0x10000, 0x320(%rdi)      /* timer off */

        step 10
        movl $kLoops, %ecx
1:      decl %ecx
        jnz 1b
        movb $kGood, %bl
fail:
        movb %bl, %al
        outb %al, $0xf4
1:      hlt                             /* nobody listens on 0xf4 */
        jmp 1b

/* Every vector fails, except for the three that are expected. */
make_idt:
        xorl %ecx, %ecx
        high fail, %rax
1:      call set_gate
        incl %ecx
        cmpl $256, %ecx
        jb 1b
        movl $0x0e, %ecx
        high on_fault, %rax
        call set_gate
        movl $0x20, %ecx
        high on_pit, %rax
        call set_gate
        movl $0x40, %ecx
        high on_apic, %rax
        call set_gate
        lidt idt_high(%rip)
        ret

set_gate:                               /* ecx: vector, rax: handler */
        movl %ecx, %edx
        shll $4, %edx
        movw %ax, kIdt(%rdx)
        movw $kCode64, kIdt + 2(%rdx)
        movw $0x8e00, kIdt + 4(%rdx)
        movq %rax, %rsi
        shrq $16, %rsi
        movw %si, kIdt + 6(%rdx)
        shrq $16, %rsi
        movl %esi, kIdt + 8(%rdx)
        ret

on_fault:
        cmpb $5, %bl                    /* elsewhere it is an error */
        jne fail
        pushq %rax
        movq %cr2, %rax
        movq %rax, kVars + 16
        movl $(kPageX + kUser), kPt + 16
        popq %rax
        addq $8, %rsp                   /* error code */
        iretq

on_pit:
        pushq %rax
        incq kVars
        movb $0x20, %al
        outb %al, $0x20
        popq %rax
        iretq

on_apic:
        pushq %rdi
        incq kVars + 8
        movl $kApic, %edi
        movl $0, 0xb0(%rdi)
        popq %rdi
        iretq

        .balign 8
gdt:
        .quad 0
        .quad 0x00cf9b000000ffff        /* kCode32 */
        .quad 0x00cf93000000ffff        /* kData */
        .quad 0x00af9b000000ffff        /* kCode64 */
        .quad 0x00cf93000000ffff        /* its stack after syscall */
        .quad 0x00cff3000000ffff        /* kUserData */
        .quad 0x00affb000000ffff        /* kUserCode */
        .quad 0x0000890000000067 | kTss << 16
        .quad 0
gdt_end:
gdt_rom:
        .word gdt_end - gdt - 1
        .long gdt - begin + kRom
gdt_low:
        .word gdt_end - gdt - 1
        .long gdt - begin + kBase
gdt_high:
        .word gdt_end - gdt - 1
        .quad gdt - begin + kHigh
idt_high:
        .word 256 * 16 - 1
        .quad kIdt + kHigh - kBase

        . = begin + 0xff0               /* reset vector */
        .code16
        jmp start16
        . = begin + 0x1000
isr_kvm_probe_end:

        .section .note.GNU-stack, "", @progbits
