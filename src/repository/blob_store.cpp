#include "repository/blob_store.h"

#include <fmt/format.h>

#include <iterator>

#include "repository/blob_name.h"

namespace isr {
namespace {

constexpr std::size_t kMaxNameSize = 512;
constexpr std::size_t kMaxComponentSize = 200;  // leaves room for a temporary name's suffix
constexpr std::string_view kObjects = "objects/";

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool is_component(std::string_view part) {
  return !part.empty() && part.size() <= kMaxComponentSize && part.front() != '.' &&
         std::all_of(part.begin(), part.end(), is_name_character);
}

// A refused name may hold any bytes, so escape it for the terminal.
std::string printable(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 80)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  return out;
}

}  // namespace

bool is_blob_name(std::string_view name) {
  if (name == "isr-repository") return true;
  if (name.size() > kMaxNameSize) return false;
  std::size_t components = 0;
  for (std::string_view rest = name;; ++components) {
    const auto slash = rest.find('/');
    if (!is_component(rest.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return components > 0;
    rest.remove_prefix(slash + 1);
  }
}

bool BlobStore::list_pages(std::string_view prefix, const std::function<void(ListPage)>& take, std::stop_token stop) {
  ListLimit limit(fmt::format("{}/{}", describe(), prefix));
  for (std::string after;;) {
    auto page = list_page(prefix, after, stop);
    if (!page) return false;
    limit.add(*page);
    const bool more = page->more && !page->names.empty();
    if (more) after = page->names.back();
    take(std::move(*page));
    if (!more) return true;
  }
}

std::optional<std::vector<std::string>> BlobStore::list(std::string_view prefix, std::stop_token stop) {
  std::vector<std::string> names;
  const auto take = [&](ListPage page) { std::move(page.names.begin(), page.names.end(), std::back_inserter(names)); };
  if (!list_pages(prefix, take, std::move(stop))) return std::nullopt;
  return names;
}

void check_blob_name(std::string_view name) {
  if (!is_blob_name(name)) {
    throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not a name for a blob", printable(name)));
  }
}

std::string object_name(const Cid& cid) {
  const std::string hex = to_hex(cid.view());
  return fmt::format("{}{}/{}", kObjects, hex.substr(0, 2), hex);
}

std::optional<Cid> cid_from_object_name(std::string_view name) {
  const std::size_t hex_size = 2 * Cid::kSize;
  if (name.size() != kObjects.size() + 3 + hex_size) return std::nullopt;
  const auto cid = fixed_from_hex<Cid>(name.substr(kObjects.size() + 3));
  // Comparing with the one correct name refuses upper case and a wrong directory, too.
  if (!cid || object_name(*cid) != name) return std::nullopt;
  return cid;
}

}  // namespace isr
