// Parses a request to the session daemon. An accepted request must encode again to a line that parses to the same
// request.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/json_object.h"
#include "daemon/protocol.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Request request = parse_request(parse_json_object(as_text({data, size}), "a control line"));
    const auto line = encode_request(request);
    if (encode_request(parse_request(line)) != line) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage && error.kind() != ErrorKind::kCorrupt) throw;
  }
  return 0;
}
