#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/bytes.h"

namespace isr {

struct QmpGreeting {
  std::string version;  ///< "7.2.22"
};
struct QmpReply {
  std::optional<std::uint64_t> id;
  std::string result;  ///< JSON
};
struct QmpFailure {
  std::optional<std::uint64_t> id;
  std::string error_class;
  std::string description;
};
struct QmpEvent {
  std::string name;
  std::string data;  ///< JSON object, "{}" when absent
};
using QmpMessage = std::variant<QmpGreeting, QmpReply, QmpFailure, QmpEvent>;

/// Divides QEMU's output into messages. A guest may have broken out into QEMU, so the bytes are untrusted:
/// Error{kCorrupt} for a line above kMaxLine, for text that is not one JSON object a line, and for an object that is
/// not a QMP message. After an error the reader must not be used.
class QmpReader {
 public:
  static constexpr std::size_t kMaxLine = 1U << 20U;
  static constexpr int kMaxDepth = 32;

  void feed(ByteView bytes);
  std::optional<QmpMessage> next();

 private:
  std::string buffer_;
  std::size_t parsed_ = 0;   ///< bytes of buffer_ already handed out
  std::size_t scanned_ = 0;  ///< bytes of buffer_ known to hold no line end
};
QmpMessage parse_qmp_message(std::string_view line);

}  // namespace isr
