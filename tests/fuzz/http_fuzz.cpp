// Runs the parsers that client and server have for HTTP texts. Byte 0 chooses the
// parser, the rest is its text. Accepted values must be within their bounds.
#include <cstdlib>

#include "base/error.h"
#include "repository/blob_store.h"
#include "repository/http_message.h"
#include "server/answer.h"

namespace {

using namespace isr;

void require(bool good) {
  if (!good) std::abort();
}

void fuzz_target(std::string_view text) {
  const auto target = parse_target(text);
  if (!target) return;
  // The call below throws for an invalid name, and that fails the target.
  if (const auto* blob = std::get_if<BlobTarget>(&*target)) {
    check_blob_name(blob->name);
    require(text == "/" + blob->name);
  } else {
    const auto& list = std::get<ListTarget>(*target);
    check_blob_name(list.prefix + "x");
    if (!list.after.empty()) check_blob_name(list.after);
  }
}

void fuzz_range(std::string_view text) {
  for (const std::uint64_t size : {0ULL, 1ULL, 5000ULL, ~0ULL}) {
    const auto range = parse_range(text, size);
    if (const auto* part = std::get_if<PartOfBlob>(&range)) require(part->first <= part->last && part->last < size);
  }
  const auto said = parse_content_range(text);
  if (said) require(said->first <= said->last && said->last < said->total);
}

void fuzz_dates(std::string_view text) {
  const WallTime now(std::chrono::seconds(1'800'000'000));
  if (const auto time = from_http_date(text)) require(to_http_date(*time) == text);
  if (const auto pause = parse_retry_after(text, now)) require(pause->count() >= 0 && pause->count() <= 86'400'000);
}

void fuzz_list(std::string_view text) {
  try {
    const ListPage page = parse_list_page(as_bytes(text), "a/", "a/b");
    for (const std::string& name : page.names) {
      check_blob_name(name);
      require(name.starts_with("a/") && name > "a/b");
    }
    if (page.names.empty()) return;
    const std::string encoded = encode_list_page(page);  // equals the text, except for names that no blob can have
    const ListPage again = parse_list_page(as_bytes(encoded), "a/", "a/b");
    require(again.names == page.names && again.more == page.more && encoded.size() <= text.size());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
}

void fuzz_early(std::string_view text) {
  ServerRequest request;
  request.method = static_cast<ServerMethod>(text.size() % 5);
  const auto line = text.find('\n');
  request.target = text.substr(0, line);
  if (line != std::string_view::npos) request.host = text.substr(line + 1);
  request.if_none_match = "*";
  if (!refuse_early(request, {})) require(parse_target(request.target).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text = as_text(ByteView(data + 1, size - 1));
  switch (data[0] % 5) {
    case 0:
      fuzz_target(text);
      break;
    case 1:
      fuzz_range(text);
      break;
    case 2:
      fuzz_dates(text);
      break;
    case 3:
      fuzz_list(text);
      break;
    default:
      fuzz_early(text);
      break;
  }
  return 0;
}
