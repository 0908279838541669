// The words in which the table is written: one function for each shape of operand. Argument numbers
// come first, then the argument that the size depends on. For the table's own files only.
#pragma once

#include "gate/table.h"

namespace buoy::gate::build {

using Byte = std::uint8_t;

constexpr Operand of(Byte argument, Direction direction, Size size, Byte by = 0,
                     std::uint16_t bytes = 0, Produced produced = Produced::kAll) {
  return {argument, direction, size, by, produced, bytes};
}

// A structure of so many bytes.
constexpr Operand in(Byte argument, std::uint16_t bytes) {
  return of(argument, Direction::kIn, Size::kFixed, 0, bytes);
}
constexpr Operand out(Byte argument, std::uint16_t bytes) {
  return of(argument, Direction::kOut, Size::kFixed, 0, bytes);
}
constexpr Operand inout(Byte argument, std::uint16_t bytes) {
  return of(argument, Direction::kInOut, Size::kFixed, 0, bytes);
}

// As many elements (bytes, unless said) as argument `by` says.
constexpr Operand in_array(Byte argument, Byte by, std::uint16_t bytes = 1) {
  return of(argument, Direction::kIn, Size::kCounted, by, bytes);
}
constexpr Operand out_array(Byte argument, Byte by, std::uint16_t bytes = 1) {
  return of(argument, Direction::kOut, Size::kCounted, by, bytes);
}
constexpr Operand inout_array(Byte argument, Byte by, std::uint16_t bytes = 1) {
  return of(argument, Direction::kInOut, Size::kCounted, by, bytes);
}
// Room for as many as argument `by` says; the call's result is how many came.
constexpr Operand result(Byte argument, Byte by, std::uint16_t bytes = 1) {
  return of(argument, Direction::kOut, Size::kCounted, by, bytes, Produced::kResult);
}

constexpr Operand string(Byte argument) { return of(argument, Direction::kIn, Size::kString); }
constexpr Operand strings(Byte argument) { return of(argument, Direction::kIn, Size::kStrings); }
constexpr Operand bits(Byte argument, Direction direction, Byte by) {
  return of(argument, direction, Size::kBits, by);
}
// NUMA's: the number is one more than there are.
constexpr Operand nodes(Byte argument, Direction direction, Byte by) {
  return of(argument, direction, Size::kBits, by, 1);
}

constexpr Operand gather(Byte argument, Byte by) {
  return of(argument, Direction::kIn, Size::kVector, by, 1);
}
constexpr Operand scatter(Byte argument, Byte by) {
  return of(argument, Direction::kOut, Size::kVector, by, 1, Produced::kResult);
}

// A room whose size stands in the word that argument `by` points at, which is an operand, too.
constexpr Operand worded(Byte argument, Direction direction, Byte by) {
  return of(argument, direction, Size::kCountedWord, by);
}
constexpr Operand word(Byte argument) { return inout(argument, 4); }

constexpr Operand by_command(Byte argument, Byte by, Direction direction = Direction::kInOut) {
  return of(argument, direction, Size::kByCommand, by);
}

template <typename... Operands>
constexpr Entry call(std::int16_t number, const char* name, Class kind, Operands... operands) {
  static_assert(sizeof...(operands) <= Entry::kMostOperands);
  return {number, kind, static_cast<Byte>(sizeof...(operands)), name, {operands...}};
}

constexpr Entry none(std::int16_t number, const char* name) {
  return call(number, name, Class::kNone);
}

}  // namespace buoy::gate::build
