// Shows programs this x86-64 CPU without AVX-512 and AMX, as a Haswell, so that every library takes
// the kernels that it has for AVX2: for timing those on a machine with AVX-512. Needs Linux:
//
//     cc -O2 -shared -fPIC benchmarks/without_avx512.c -o /tmp/without_avx512.so
//     LD_PRELOAD=/tmp/without_avx512.so prefilltune compare ...
//
// Linux lets a thread and what it starts fault at the instruction CPUID (arch_prctl) where the CPU
// can, which has cpuid_fault in /proc/cpuinfo; an exec ends that, and the library is loaded anew. A
// handler of the fault asks the CPU itself and takes features away. Elsewhere only libraries that
// plant_cpuid.py has copied ask the handler: they have an illegal instruction (UD2) for each CPUID.
// /proc/cpuinfo stays as it is, and so does what was asked before the library was there: glibc's
// choice of its own memcpy and exp.

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { kAllowed = 1, kFaults = 0, kHaswell = 0x306f2, kCpuidBytes = 2 };  // UD2 has two as well

// Feature bits by leaf: 7.0 and 7.1 hold features, 0xd.0 the registers that the system saves.
// AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL
static const uint32_t kFoundation =
    1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31;
// AVX512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
static const uint32_t kExtensions = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
// AVX512 4VNNIW, 4FMAPS, VP2INTERSECT, then AMX BF16, AVX512 FP16, AMX TILE, INT8
static const uint32_t kNewer =
    1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;
static const uint32_t kSavedRegisters = 7u << 5 | 3u << 17;  // AVX-512's and AMX's

typedef int Sigaction(int, const struct sigaction*, struct sigaction*);
typedef int Sigmask(int, const sigset_t*, sigset_t*);

static int asked_by = SIGSEGV;              // or SIGILL where CPUID cannot fault
static struct sigaction wanted_by_program;  // of that signal, for faults that are none of ours
static Sigaction* next_sigaction;
static Sigmask* next_mask;

static long set_cpuid(long how) {  // without errno: a handler runs anywhere
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_arch_prctl), "D"(ARCH_SET_CPUID), "S"(how)
                   : "rcx", "r11", "memory");
  return result;
}

static void ask(uint32_t leaf, uint32_t part, uint32_t* a, uint32_t* b, uint32_t* c, uint32_t* d) {
  if (asked_by == SIGSEGV) set_cpuid(kAllowed);
  __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(part));
  if (asked_by == SIGSEGV) set_cpuid(kFaults);
  if (leaf == 1) {
    *a = kHaswell;
  } else if (leaf == 7 && part == 0) {
    *b &= ~kFoundation;
    *c &= ~kExtensions;
    *d &= ~kNewer;
  } else if (leaf == 7) {
    *a = *b = *c = *d = 0;  // AVX-VNNI, AVX512-BF16 and later
  } else if (leaf == 0xd && part == 0) {
    *a &= ~kSavedRegisters;
  } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
    *a = *b = *c = *d = 0;  // tiles of AMX, AVX10
  }
}

static int asks_for_cpuid(const siginfo_t* info, const uint8_t* at) {
  if (asked_by == SIGSEGV) return info->si_code == SI_KERNEL && at[0] == 0x0f && at[1] == 0xa2;
  return info->si_code == ILL_ILLOPN && at[0] == 0x0f && at[1] == 0x0b;
}

static void on_fault(int number, siginfo_t* info, void* context) {
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* at = (const uint8_t*)registers[REG_RIP];
  if (asks_for_cpuid(info, at)) {
    uint32_t a, b, c, d;
    ask((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], &a, &b, &c, &d);
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += kCpuidBytes;
  } else if (wanted_by_program.sa_flags & SA_SIGINFO) {
    wanted_by_program.sa_sigaction(number, info, context);
  } else if (wanted_by_program.sa_handler != SIG_DFL && wanted_by_program.sa_handler != SIG_IGN) {
    wanted_by_program.sa_handler(number);
  } else {
    next_sigaction(asked_by, &wanted_by_program, NULL);  // the fault comes again
  }
}

static void find_next(void) {
  next_sigaction = (Sigaction*)dlsym(RTLD_NEXT, "sigaction");
  next_mask = (Sigmask*)dlsym(RTLD_NEXT, "pthread_sigmask");
}

__attribute__((constructor)) static void begin(void) {
  if (!next_sigaction) find_next();
  struct sigaction handler = {.sa_sigaction = on_fault};
  handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&handler.sa_mask);
  next_sigaction(SIGSEGV, &handler, &wanted_by_program);
  if (set_cpuid(kFaults) == 0) return;
  next_sigaction(SIGSEGV, &wanted_by_program, NULL);
  asked_by = SIGILL;
  next_sigaction(SIGILL, &handler, &wanted_by_program);
}

// A program may neither replace the handler nor block its signal, which would end the process.

int sigaction(int number, const struct sigaction* wanted, struct sigaction* before) {
  if (!next_sigaction) find_next();
  if (number != asked_by) return next_sigaction(number, wanted, before);
  struct sigaction last = wanted_by_program;
  if (wanted) wanted_by_program = *wanted;
  if (before) *before = last;
  return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction wanted = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  sigemptyset(&wanted.sa_mask);
  return sigaction(number, &wanted, &before) ? SIG_ERR : before.sa_handler;
}

int pthread_sigmask(int how, const sigset_t* set, sigset_t* before) {
  if (!next_mask) find_next();
  if (!set) return next_mask(how, set, before);
  sigset_t without = *set;
  if (how != SIG_UNBLOCK) sigdelset(&without, asked_by);
  return next_mask(how, &without, before);
}

int sigprocmask(int how, const sigset_t* set, sigset_t* before) {
  return pthread_sigmask(how, set, before);  // of the calling thread in either, on Linux
}
