#include "gate/entry.h"

#include <cpuid.h>

#include <cstddef>

// One macro for both entries. On the stack, from the top: the red zone of the interrupted function,
// the Frame, the old %rbp; then aligned.
asm(R"(
  .pushsection .text,"ax",@progbits
  .macro BUOY_GATE_ENTRY name, handler
  .balign 16
  .globl \name
  .hidden \name
  .type \name, @function
\name:
  .cfi_startproc
  .cfi_signal_frame
  .cfi_def_cfa %rsp, 0
  .cfi_register %rip, %r11
  leaq -128(%rsp), %rsp
  .cfi_adjust_cfa_offset 128
  pushq (%r11)
  .cfi_adjust_cfa_offset 8
  .cfi_offset %rip, -136
  pushq %r11
  pushq %rax
  pushq %r9
  pushq %r8
  pushq %r10
  pushq %rdx
  pushq %rsi
  pushq %rdi
  .cfi_adjust_cfa_offset 64
  movq %rsp, %rdi
  pushq %rbp
  .cfi_adjust_cfa_offset 8
  .cfi_offset %rbp, -208
  movq %rsp, %rbp
  .cfi_def_cfa_register %rbp
  andq $-16, %rsp
  cld
  callq *\handler(%rip)
  movq %rax, %r11
  movq %rbp, %rsp
  popq %rbp
  .cfi_def_cfa %rsp, 200
  .cfi_same_value %rbp
  popq %rdi
  popq %rsi
  popq %rdx
  popq %r10
  popq %r8
  popq %r9
  popq %rax
  leaq 144(%rsp), %rsp
  .cfi_def_cfa %rsp, 0
  .cfi_register %rip, %r11
  jmpq *%r11
  .cfi_endproc
  .size \name, . - \name
  .endm

  BUOY_GATE_ENTRY buoy_gate_enter_front, buoy_gate_handlers
  BUOY_GATE_ENTRY buoy_gate_enter_behind, buoy_gate_handlers+8

  # A call that was dispatched, on a stack of ours (dispatch.h) or past the red zone of its own. %r11:
  # what is behind it; %rcx: a DispatchedCall. Its SiteInfo lies on the stack, and says to go on at the
  # label below.
  .balign 16
  .globl buoy_gate_enter_dispatched
  .hidden buoy_gate_enter_dispatched
  .type buoy_gate_enter_dispatched, @function
buoy_gate_enter_dispatched:
  pushq %r11
  pushq %rcx
  pushq $0
  pushq $-1
  leaq -2(%r11), %rcx
  leaq 1f(%rip), %r11
  pushq %r11
  pushq %rcx
  movq %rsp, %r11
  jmp buoy_gate_enter_front
1:
  movq 32(%rsp), %rcx
  movq 40(%rsp), %r11
  movq (%rcx), %rsp
  movl $0, 8(%rcx)
  jmpq *%r11
  .size buoy_gate_enter_dispatched, . - buoy_gate_enter_dispatched

  # long buoy_gate_keep_vectors(body, frame)
  .balign 16
  .hidden buoy_gate_keep_vectors
  .type buoy_gate_keep_vectors, @function
buoy_gate_keep_vectors:
  .cfi_startproc
  pushq %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset %rbp, -16
  movq %rsp, %rbp
  .cfi_def_cfa_register %rbp
  pushq %rbx
  pushq %r12
  .cfi_offset %rbx, -24
  .cfi_offset %r12, -32
  movq %rdi, %rcx
  subq buoy_gate_vector_bytes(%rip), %rsp
  andq $-64, %rsp
  movq %rsp, %rbx
  # The header of the area: zero, or xrstor refuses it.
  xorl %eax, %eax
  movq %rax, 512(%rbx)
  movq %rax, 520(%rbx)
  movq %rax, 528(%rbx)
  movq %rax, 536(%rbx)
  movq %rax, 544(%rbx)
  movq %rax, 552(%rbx)
  movq %rax, 560(%rbx)
  movq %rax, 568(%rbx)
  movl buoy_gate_vector_mask(%rip), %eax
  xorl %edx, %edx
  xsavec (%rbx)
  movq %rsi, %rdi
  callq *%rcx
  movq %rax, %r12
  movl buoy_gate_vector_mask(%rip), %eax
  xorl %edx, %edx
  xrstor (%rbx)
  movq %r12, %rax
  leaq -16(%rbp), %rsp
  popq %r12
  popq %rbx
  popq %rbp
  .cfi_def_cfa %rsp, 8
  ret
  .cfi_endproc
  .size buoy_gate_keep_vectors, . - buoy_gate_keep_vectors
  .popsection
)");

extern "C" {
std::uintptr_t buoy_gate_keep_vectors(std::uintptr_t (*body)(buoy::gate::Frame*),
                                      buoy::gate::Frame* frame)
    __attribute__((visibility("hidden")));
// Read by the code above.
constinit buoy::gate::Handlers buoy_gate_handlers __attribute__((visibility("hidden"))) = {};
constinit std::uint64_t buoy_gate_vector_bytes __attribute__((visibility("hidden"))) = 0;
constinit std::uint32_t buoy_gate_vector_mask __attribute__((visibility("hidden"))) = 0;
}

namespace buoy::gate {

namespace {

static_assert(sizeof(Frame) == 72 && offsetof(Frame, result) == 48);
static_assert(offsetof(SiteInfo, call) == 0 && offsetof(SiteInfo, resume) == 8 &&
              offsetof(SiteInfo, number) == 16 && offsetof(SiteInfo, is_in_place) == 24 &&
              sizeof(SiteInfo) == 32 && Site::kNumberUnknown == -1);
static_assert(offsetof(DispatchedCall, stack_pointer) == 0 &&
              offsetof(DispatchedCall, is_under_way) == 8);

// SSE, AVX and the three parts of AVX-512: what compiled code and libc's string functions use.
constexpr std::uint32_t kVectorParts = 0xe6;
constexpr std::uint32_t kLegacyBytes = 512 + 64;
constexpr std::uint32_t kXsaveLeaf = 0xd;

// The parts that the system has turned on, and the bytes they may take, each aligned to 64.
void measure_vectors() {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(kXsaveLeaf, 0, &eax, &ebx, &ecx, &edx);
  buoy_gate_vector_mask = eax & kVectorParts;
  std::uint64_t bytes = kLegacyBytes;
  for (unsigned part = 2; part < 8; ++part) {
    if ((buoy_gate_vector_mask >> part & 1U) == 0) continue;
    std::uint32_t size = 0;
    __get_cpuid_count(kXsaveLeaf, part, &size, &ebx, &ecx, &edx);
    bytes += (size + 63U) & ~63U;
  }
  buoy_gate_vector_bytes = bytes + 64;
}

}  // namespace

void set_handlers(const Handlers& handlers) {
  measure_vectors();
  buoy_gate_handlers = handlers;
}

std::uintptr_t with_vectors_kept(std::uintptr_t (*body)(Frame*), Frame* frame) {
  return buoy_gate_keep_vectors(body, frame);
}

}  // namespace buoy::gate
