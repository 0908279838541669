#include "gate/instruction.h"

#include <cstddef>

namespace buoy::gate {

namespace {

// What follows an opcode. Each map has a character an opcode, sixteen a row.
//   .  nothing          m  ModRM              b  imm8 (or rel8 'r')      z  imm16/32
//   M  ModRM, imm8      Z  ModRM, imm16/32    R  rel32                   w  imm16
//   v  imm16/32/64      a  address (moffs)    3  imm16, imm8             g/G  group 3: F6, F7
//   -  not an instruction here               p  a prefix or an escape, dealt with before
constexpr char kOneByte[] =
    "mmmmbz--mmmmbz-p"
    "mmmmbz--mmmmbz--"
    "mmmmbzp-mmmmbzp-"
    "mmmmbzp-mmmmbzp-"
    "pppppppppppppppp"
    "................"
    "--pmppppzZbM...."
    "rrrrrrrrrrrrrrrr"
    "MZ-Mmmmmmmmmmmmm"
    "..........-....."
    "aaaa....bz......"
    "bbbbbbbbvvvvvvvv"
    "MMw.ppMZ3.w..b-."
    "mmmm---.mmmmmmmm"
    "rrrrbbbbRR-r...."
    "p.pp..gG......mm";
constexpr char kTwoByte[] =
    "mmmm-.....-.-m.M"
    "mmmmmmmmmmmmmmmm"
    "mmmm----mmmmmmmm"
    "......-.p-p-----"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "MMMMmmm.mm--mmmm"
    "RRRRRRRRRRRRRRRR"
    "mmmmmmmmmmmmmmmm"
    "...mMm--...mMmmm"
    "mmmmmmmmmmMmmmmm"
    "mmMmMMMm........"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm";
static_assert(sizeof kOneByte == 257 && sizeof kTwoByte == 257);

enum Map : unsigned { kMap0f = 1, kMap0f38 = 2, kMap0f3a = 3 };

class Decoder {
 public:
  explicit Decoder(std::span<const std::uint8_t> code) : code_(code) {}

  Instruction decode() {
    skip_prefixes();
    const char form = read_opcode();
    read_form(form);
    constexpr std::size_t kLongest = 15;
    if (is_bad_ || at_ > code_.size() || at_ > kLongest) return {};
    out_.length = static_cast<unsigned>(at_);
    return out_;
  }

 private:
  std::uint8_t next() {
    if (at_ >= code_.size()) {
      is_bad_ = true;
      return 0;
    }
    return code_[at_++];
  }
  [[nodiscard]] std::uint8_t peek() const { return at_ < code_.size() ? code_[at_] : 0; }

  void skip_prefixes() {
    for (;; ++at_) {
      switch (peek()) {
        case 0x66:
          has_operand_prefix_ = true;
          continue;
        case 0x67:
          has_address_prefix_ = true;
          continue;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
        case 0xf0:
        case 0xf2:
        case 0xf3:
          continue;
        default:
          break;
      }
      break;
    }
    constexpr std::uint8_t kRex = 0x40;
    if ((peek() & 0xf0U) == kRex) is_wide_ = (next() & 8U) != 0;
  }

  char read_opcode() {
    opcode_ = next();
    switch (opcode_) {
      case 0x0f:
        opcode_ = next();
        if (opcode_ == 0x38) return next(), 'm';
        if (opcode_ == 0x3a) return next(), 'M';
        return kTwoByte[opcode_];
      case 0xc5:
        next();
        return read_vector_opcode(kMap0f);
      case 0xc4: {
        const unsigned map = next() & 0x1fU;
        next();
        return read_vector_opcode(map);
      }
      case 0x8f:
        // pop, or AMD's XOP where that would name no register.
        if ((peek() & 0x38U) == 0) return 'm';
        return read_xop();
      case 0x62: {
        const unsigned map = next() & 7U;
        next();
        next();
        return read_vector_opcode(map);
      }
      default:
        return kOneByte[opcode_];
    }
  }

  // Every instruction of these encodings but vzeroupper has a ModRM byte.
  char read_vector_opcode(unsigned map) {
    opcode_ = next();
    if (map == kMap0f) {
      constexpr std::uint8_t kZeroUpper = 0x77;
      if (opcode_ == kZeroUpper) return '.';
      return kTwoByte[opcode_] == 'M' ? 'M' : 'm';
    }
    if (map == kMap0f3a) return 'M';
    // Maps 5 and 6 are half precision.
    return map == kMap0f38 || map == 5 || map == 6 ? 'm' : '-';
  }

  char read_xop() {
    const unsigned map = next() & 0x1fU;
    next();
    opcode_ = next();
    constexpr unsigned kImm8 = 8, kNone = 9, kImm32 = 10;
    return map == kImm8 ? 'M' : map == kNone ? 'm' : map == kImm32 ? 'Z' : '-';
  }

  void read_form(char form) {
    switch (form) {
      case '.':
        break;
      case 'm':
        read_modrm();
        break;
      case 'b':
        at_ += 1;
        break;
      case 'r':
        branch(1);
        break;
      case 'z':
        at_ += immediate();
        break;
      case 'M':
        read_modrm();
        at_ += 1;
        break;
      case 'Z':
        read_modrm();
        is_begin_ ? branch(4) : skip(immediate());
        break;
      // Near branches have 32 bits, whatever the prefix, on one maker's processors and not on the other's.
      case 'R':
        branch(4);
        is_bad_ = is_bad_ || has_operand_prefix_;
        break;
      case 'w':
        at_ += 2;
        break;
      case 'v':
        at_ += is_wide_ ? 8 : immediate();
        break;
      case 'a':
        at_ += has_address_prefix_ ? 4 : 8;
        break;
      case '3':
        at_ += 3;
        break;
      // The first two of group 3, test, have an immediate.
      case 'g':
        if (read_modrm() < 2) at_ += 1;
        break;
      case 'G':
        if (read_modrm() < 2) at_ += immediate();
        break;
      default:
        is_bad_ = true;
    }
  }

  [[nodiscard]] std::size_t immediate() const { return has_operand_prefix_ && !is_wide_ ? 2 : 4; }

  // ModRM, SIB and displacement; the middle field.
  unsigned read_modrm() {
    const std::uint8_t modrm = next();
    is_begin_ = opcode_ == 0xc7 && modrm == 0xf8;
    const unsigned mod = modrm >> 6U;
    const unsigned rm = modrm & 7U;
    constexpr unsigned kRegister = 3;
    constexpr unsigned kSib = 4;
    constexpr unsigned kNoBase = 5;
    if (mod != kRegister) {
      unsigned base = rm;
      if (rm == kSib) base = next() & 7U;
      if (mod == 0 && base == kNoBase) {
        if (rm == kNoBase) note_distance(4);
        at_ += 4;
      }
      if (mod == 1) at_ += 1;
      if (mod == 2) at_ += 4;
    }
    return (modrm >> 3U) & 7U;
  }

  void skip(std::size_t bytes) { at_ += bytes; }
  void note_distance(unsigned bytes) {
    out_.distance_at = static_cast<unsigned>(at_);
    out_.distance_bytes = bytes;
  }
  void branch(unsigned bytes) {
    note_distance(bytes);
    out_.is_branch = true;
    at_ += bytes;
  }

  std::span<const std::uint8_t> code_;
  Instruction out_;
  std::size_t at_ = 0;
  std::uint8_t opcode_ = 0;
  bool has_operand_prefix_ = false;
  bool has_address_prefix_ = false;
  bool is_wide_ = false;
  bool is_begin_ = false;  // xbegin: a branch in the guise of a mov
  bool is_bad_ = false;
};

}  // namespace

Instruction decode(std::span<const std::uint8_t> code) { return Decoder(code).decode(); }

}  // namespace buoy::gate
