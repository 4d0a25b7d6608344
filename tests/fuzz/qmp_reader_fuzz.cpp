// Reads QMP messages. The same bytes give the same messages, in one piece or in
// many, and each JSON value in a message is valid JSON.
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "vm/qmp_reader.h"

namespace {

using namespace isr;

std::string describe(const QmpMessage& message) {
  if (const auto* greeting = std::get_if<QmpGreeting>(&message)) return "greeting " + greeting->version;
  if (const auto* failure = std::get_if<QmpFailure>(&message)) return failure->error_class + failure->description;
  if (const auto* reply = std::get_if<QmpReply>(&message)) return nlohmann::json::parse(reply->result).dump();
  const auto& event = std::get<QmpEvent>(message);
  if (!nlohmann::json::parse(event.data).is_object()) std::abort();
  return event.name + event.data;
}

std::string read_all(ByteView input, std::size_t piece) {
  std::string out;
  try {
    QmpReader reader;
    while (!input.empty()) {
      const auto count = std::min(piece, input.size());
      reader.feed(input.first(count));
      input = input.subspan(count);
      while (const auto message = reader.next()) out += describe(*message) + "\n";
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    out += error.what();
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView input(data, size);
  const std::string whole = read_all(input, size);
  if (read_all(input, 7) != whole || read_all(input, 1000) != whole) std::abort();
  return 0;
}
