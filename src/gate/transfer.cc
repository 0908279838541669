#include "gate/transfer.h"

#include <sys/syscall.h>

namespace buoy::gate {

Transfer transfer_of(long number) {
  using Kind = Transfer::Kind;
  switch (number) {
    case SYS_read:
      return {Kind::kPlain, true, false, SYS_read};
    case SYS_write:
      return {Kind::kPlain, false, false, SYS_write};
    case SYS_pread64:
      return {Kind::kPlain, true, true, SYS_pread64};
    case SYS_pwrite64:
      return {Kind::kPlain, false, true, SYS_pwrite64};
    case SYS_sendto:
      return {Kind::kPlain, false, false, SYS_sendto};
    case SYS_readv:
      return {Kind::kVector, true, false, SYS_read};
    case SYS_writev:
      return {Kind::kVector, false, false, SYS_write};
    case SYS_preadv:
      return {Kind::kVector, true, true, SYS_pread64};
    case SYS_pwritev:
      return {Kind::kVector, false, true, SYS_pwrite64};
    // With flags, which the rest is to be moved by as well.
    case SYS_preadv2:
      return {Kind::kVector, true, true, SYS_preadv2};
    case SYS_pwritev2:
      return {Kind::kVector, false, true, SYS_pwritev2};
    // The control data went with the first part.
    case SYS_sendmsg:
      return {Kind::kVector, false, false, SYS_sendto};
    default:
      return {};
  }
}

}  // namespace buoy::gate
