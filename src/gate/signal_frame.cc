#include "gate/signal_frame.h"

#include <cstring>

// The offsets in the unwind table are those of SignalContext, from %rsp as a handler's return leaves
// it: as libc's own restorer has them.
asm(R"(
  .pushsection .text,"ax",@progbits
  .balign 16
  .globl buoy_signal_enter
  .hidden buoy_signal_enter
  .globl buoy_signal_blocked
  .hidden buoy_signal_blocked
  .type buoy_signal_enter, @function
buoy_signal_enter:
  .cfi_startproc
  movl $14, %eax
  movl $2, %edi
  leaq buoy_signal_all(%rip), %rsi
  leaq -16(%rsp), %rdx
  movl $8, %r10d
  syscall
buoy_signal_blocked:
  movq %rsp, %rdi
  movq -16(%rsp), %rsi
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  callq buoy_signal_deliver
  hlt
  .cfi_endproc
  .size buoy_signal_enter, . - buoy_signal_enter

  .balign 16
  .globl buoy_signal_start
  .hidden buoy_signal_start
  .globl buoy_signal_open
  .hidden buoy_signal_open
  .globl buoy_signal_opened
  .hidden buoy_signal_opened
  .type buoy_signal_start, @function
buoy_signal_start:
  movq 0(%rdi), %r12
  movq 8(%rdi), %r13
  movq 16(%rdi), %r14
  movq 24(%rdi), %r15
  movq 32(%rdi), %rbx
  leaq 40(%rdi), %rsi
  movl $14, %eax
  movl $2, %edi
  xorl %edx, %edx
  movl $8, %r10d
  syscall
buoy_signal_open:
  movq %r14, %rdi
  movq %r15, %rsi
  movq %rbx, %rdx
  xorl %eax, %eax
  movq %r12, %rsp
buoy_signal_opened:
  jmpq *%r13
  .size buoy_signal_start, . - buoy_signal_start

  .balign 16
  .globl buoy_signal_resume
  .hidden buoy_signal_resume
  .type buoy_signal_resume, @function
buoy_signal_resume:
  movq %rdi, %rsp
  .globl buoy_signal_sigreturn
  .hidden buoy_signal_sigreturn
buoy_signal_sigreturn:
  movl $15, %eax
  syscall
  hlt
  .size buoy_signal_resume, . - buoy_signal_resume

  .macro BUOY_SAVED register, offset
  .if \offset < 64
  .cfi_escape 0x10, \register, 2, 0x77, \offset
  .else
  .cfi_escape 0x10, \register, 3, 0x77, (\offset & 0x7f) | 0x80, \offset >> 7
  .endif
  .endm
  .balign 16
  .cfi_startproc
  .cfi_signal_frame
  .cfi_escape 0x0f, 4, 0x77, 0xa0, 1, 0x06
  BUOY_SAVED 8, 40
  BUOY_SAVED 9, 48
  BUOY_SAVED 10, 56
  BUOY_SAVED 11, 64
  BUOY_SAVED 12, 72
  BUOY_SAVED 13, 80
  BUOY_SAVED 14, 88
  BUOY_SAVED 15, 96
  BUOY_SAVED 5, 104
  BUOY_SAVED 4, 112
  BUOY_SAVED 6, 120
  BUOY_SAVED 3, 128
  BUOY_SAVED 1, 136
  BUOY_SAVED 0, 144
  BUOY_SAVED 2, 152
  BUOY_SAVED 7, 160
  BUOY_SAVED 16, 168
  nop
  .globl buoy_signal_return
  .hidden buoy_signal_return
  .type buoy_signal_return, @function
buoy_signal_return:
  movq %rsp, %rdi
  callq buoy_signal_leave
  hlt
  .cfi_endproc
  .size buoy_signal_return, . - buoy_signal_return

  # All but SIGBUS, by which faults come.
  .pushsection .rodata
  .balign 8
  .globl buoy_signal_all
  .hidden buoy_signal_all
buoy_signal_all:
  .quad ~(1 << 6)
  .popsection
  .popsection
)");

namespace buoy::gate {

namespace {

static_assert(SIGBUS == 7);
static_assert(offsetof(SignalContext, registers) + REG_R8 * sizeof(greg_t) == 40 &&
              offsetof(SignalContext, registers) + REG_RDI * sizeof(greg_t) == 104 &&
              offsetof(SignalContext, registers) + REG_RSP * sizeof(greg_t) == 160 &&
              offsetof(SignalContext, registers) + REG_RIP * sizeof(greg_t) == 168);
static_assert(offsetof(HandlerStart, mask) == 40);

// The state of the vector unit: the legacy part says in bytes that it leaves free (struct
// _fpx_sw_bytes) how long it is with the others.
constexpr std::size_t kLegacyBytes = 512;
constexpr std::size_t kSoftwareBytes = 464;
constexpr std::uint32_t kMagic = 0x46505853;
constexpr std::size_t kVectorAlignment = 64;

std::size_t vector_bytes(const std::byte* vectors) {
  if (vectors == nullptr) return 0;
  std::uint32_t words[2];  // magic, and the length
  std::memcpy(words, vectors + kSoftwareBytes, sizeof words);
  return words[0] == kMagic ? words[1] : kLegacyBytes;
}

}  // namespace

std::size_t bytes_of(const SignalFrame& frame) {
  return vector_bytes(frame.context.vectors) + kVectorAlignment + sizeof(SignalFrame) + 32;
}

SignalFrame* copy_frame(const SignalFrame& from, std::uintptr_t top) {
  const std::size_t length = vector_bytes(from.context.vectors);
  const std::uintptr_t vectors = (top - length) & ~(kVectorAlignment - 1);
  // As after a call.
  const std::uintptr_t place = ((vectors - sizeof(SignalFrame)) & ~std::uintptr_t{15}) - 8;
  auto* const to = reinterpret_cast<SignalFrame*>(place);  // NOLINT(performance-no-int-to-ptr)
  std::memcpy(to, &from, sizeof from);
  if (length == 0) return to;
  to->context.vectors = reinterpret_cast<std::byte*>(vectors);  // NOLINT(performance-no-int-to-ptr)
  std::memcpy(to->context.vectors, from.context.vectors, length);
  return to;
}

}  // namespace buoy::gate
