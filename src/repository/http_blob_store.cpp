// Blobs over HTTP: isr serve, or any static web server (read-only). docs/formats/http.md says what each answer means.
// An answer that contradicts itself (the wrong range, a length that is not that of the body, an encoding that was not
// requested) comes from something between this host and the store: kTransient.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/clock.h"
#include "repository/blob_store.h"
#include "repository/http_client.h"
#include "repository/http_message.h"

namespace isr {
namespace {

constexpr std::string_view kProbedName = "isr-repository";
constexpr std::string_view kServerHeader = "isr-repository";

std::string without_slashes(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  return url;
}

/// Date - Last-Modified, both by the server's clock; a cache in between adds Age.
std::optional<std::chrono::seconds> age_of(const HttpResponse& response) {
  const auto now = from_http_date(response.header("date"));
  const auto stored = from_http_date(response.header("last-modified"));
  if (!now || !stored) return std::nullopt;
  const auto cached = parse_retry_after(response.header("age"), *now).value_or(std::chrono::milliseconds(0));
  return std::max(*now - *stored, std::chrono::seconds(0)) + std::chrono::duration_cast<std::chrono::seconds>(cached);
}

void check_encoding(const HttpResponse& response, const std::string& what) {
  const auto encoding = response.header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    throw Error(ErrorKind::kTransient,
                what + ": the answer is compressed although isr did not ask for that; something changes it on the way");
  }
}

HttpOptions http_options(const StoreOptions& options) {
  HttpOptions http;
  http.connect_timeout = options.connect_timeout;
  http.stall_timeout = options.stall_timeout;
  return http;
}

class HttpStore : public BlobStore {
 public:
  HttpStore(const std::string& url, bool is_isr, bool writable, bool is_known, std::unique_ptr<HttpClient> client)
      : BlobStore(url, writable), is_isr_(is_isr), is_known_(is_known), client_(std::move(client)) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override;
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override;
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override;
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop) override;
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override;
  bool remove(std::string_view name) override;

 private:
  HttpResponse perform(const HttpRequest& request, std::stop_token stop = {}) const;
  std::string what(std::string_view name) const { return fmt::format("{}/{}", describe(), name); }
  HttpResponse put(std::string_view name, ByteView bytes, std::vector<std::string> headers, std::stop_token stop);
  void check_writable(std::string_view action) const;

  const bool is_isr_;
  const bool is_known_;
  const std::unique_ptr<HttpClient> client_;
};

HttpRequest request_for(HttpMethod method, std::string_view name) {
  check_blob_name(name);
  HttpRequest request;
  request.method = method;
  request.target = fmt::format("/{}", name);
  request.max_response_bytes = kMaxBlobSize;
  if (cid_from_object_name(name)) request.large_body_bytes = kMaxBlobSize;
  return request;
}

/// True when something between this host and the store has answered. A repository never answers like this.
bool is_from_elsewhere(const HttpResponse& response) {
  if (!response.header(kServerHeader).empty()) return false;
  const int status = response.status;
  const bool refusal = status == 401 || status == 403 || status == 407;
  const bool page = status == 200 && response.header("content-type").starts_with("text/html");
  return refusal || page || (status >= 300 && status < 400);
}

[[noreturn]] void throw_from_elsewhere(const HttpResponse& response, const std::string& what) {
  const std::string said =
      response.status == 200 ? "a web page came instead" : fmt::format("the server answered {}", response.status);
  throw Error(ErrorKind::kTransient, fmt::format("{}: {}; perhaps this network wants a login first", what, said),
              {"log in to the network with a web browser; until then isr --offline uses what is on this host"});
}

HttpResponse HttpStore::perform(const HttpRequest& request, std::stop_token stop) const {
  HttpResponse response = client_->perform(request, std::move(stop));
  if (is_known_ && is_from_elsewhere(response)) throw_from_elsewhere(response, describe() + request.target);
  return response;
}

/// The bytes of `range`, from the answer to a request for just that range.
Blob part_of(HttpResponse response, const ByteRange& range, const std::string& what) {
  Blob blob{.bytes = {}, .age = age_of(response)};
  if (response.status == 200) {  // the server ignores ranges
    const Bytes& whole = response.body;
    const auto first = std::min<std::size_t>(range.offset, whole.size());
    const auto count = std::min<std::size_t>(range.length, whole.size() - first);
    const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(first);
    blob.bytes.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
    return blob;
  }
  if (response.status != 206) return blob;  // 416: nothing lies in the range
  const auto said = parse_content_range(response.header("content-range"));
  const bool fits = said && said->first == range.offset &&
                    said->last == std::min(range.offset + range.length, said->total) - 1 &&
                    response.body.size() == said->last - said->first + 1;
  if (!fits)
    throw Error(ErrorKind::kTransient, what + ": the answer has another range than the one that was requested");
  blob.bytes = std::move(response.body);
  return blob;
}

std::optional<Blob> HttpStore::get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) {
  // HTTP cannot ask for zero bytes, but HEAD tells the age.
  const bool nothing = range && (range->length == 0 || range->offset >= kMaxBlobSize);
  HttpRequest request = request_for(nothing ? HttpMethod::kHead : HttpMethod::kGet, name);
  if (range && !nothing) {
    range->length = std::min<std::uint64_t>(range->length, kMaxBlobSize);
    request.headers.push_back(fmt::format("Range: bytes={}-{}", range->offset, range->offset + range->length - 1));
  }
  HttpResponse response = perform(request, std::move(stop));
  if (response.status == 404 || response.status == 410) return std::nullopt;
  const bool expected = response.status == 200 || (range && (response.status == 206 || response.status == 416));
  if (!expected) throw_for_status(response, what(name));
  check_encoding(response, what(name));
  if (nothing) return Blob{.bytes = {}, .age = age_of(response)};
  if (range) return part_of(std::move(response), *range, what(name));
  Blob blob{.bytes = {}, .age = age_of(response)};
  blob.bytes = std::move(response.body);
  return blob;
}

std::optional<std::uint64_t> HttpStore::stat(std::string_view name, std::stop_token stop) {
  const HttpResponse response = perform(request_for(HttpMethod::kHead, name), stop);
  if (response.status == 404 || response.status == 410) return std::nullopt;
  if (response.status != 200) throw_for_status(response, what(name));
  check_encoding(response, what(name));
  const auto length = response.header("content-length");
  std::uint64_t size = 0;
  const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), size);
  if (!length.empty() && error == std::errc() && end == length.data() + length.size()) return size;
  const auto blob = get(name, {}, std::move(stop));  // the answer to HEAD may lack the length
  return blob ? std::optional<std::uint64_t>(blob->bytes.size()) : std::nullopt;
}

void HttpStore::check_writable(std::string_view action) const {
  if (writable()) return;
  throw Error(
      ErrorKind::kUnsupported, fmt::format("{} is read-only, so {} is not possible", describe(), action),
      {is_isr_ ? "isr serve was started with --read-only" : "only isr serve and directories can be written to"});
}

HttpResponse HttpStore::put(std::string_view name, ByteView bytes, std::vector<std::string> headers,
                            std::stop_token stop) {
  HttpRequest request = request_for(HttpMethod::kPut, name);
  check_writable("storing");
  if (bytes.size() > kMaxBlobSize) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} bytes are too many for a blob", name, bytes.size()));
  }
  request.headers = std::move(headers);
  request.body = bytes;
  return perform(request, std::move(stop));
}

PutResult HttpStore::put_new(std::string_view name, ByteView bytes, std::stop_token stop) {
  const HttpResponse response = put(name, bytes, {"If-None-Match: *"}, std::move(stop));
  if (response.status == 201) return PutResult::kCreated;
  if (response.status == 412) return PutResult::kExists;
  if (response.status / 100 == 2) {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format(
            "{}: the server answered {} to a write that must not replace anything; it may have overwritten a blob",
            what(name), response.status));
  }
  throw_for_status(response, what(name));
}

void HttpStore::put_hint(std::string_view name, ByteView bytes, std::stop_token stop) {
  if (!name.ends_with("/latest")) throw Error(ErrorKind::kUsage, fmt::format("{} is not the name of a hint", name));
  const HttpResponse response = put(name, bytes, {}, std::move(stop));
  if (response.status != 201 && response.status != 204) throw_for_status(response, what(name));
}

std::optional<ListPage> HttpStore::list_page(std::string_view prefix, std::string_view after, std::stop_token stop) {
  if (!prefix.ends_with('/')) throw Error(ErrorKind::kUsage, "the prefix of a list must end in '/'");
  check_blob_name(std::string(prefix) + "x");
  if (!is_isr_) return std::nullopt;
  HttpRequest request;
  request.target = fmt::format("/?list={}", prefix);
  if (!after.empty()) request.target += fmt::format("&after={}", after);
  request.max_response_bytes = kMaxListPageSize;
  const HttpResponse response = perform(request, std::move(stop));
  if (response.status != 200) throw_for_status(response, what(prefix));
  check_encoding(response, what(prefix));
  return parse_list_page(response.body, prefix, after);
}

bool HttpStore::remove(std::string_view name) {
  HttpRequest request = request_for(HttpMethod::kDelete, name);
  check_writable("removing");
  const HttpResponse response = perform(request);
  if (response.status == 404) return false;
  if (response.status != 204) throw_for_status(response, what(name));
  return true;
}

}  // namespace

BlobStorePtr open_http_store(const std::string& given_url, const StoreOptions& options, std::stop_token stop) {
  const std::string url = without_slashes(given_url);
  auto client = make_http_client(url, http_options(options));
  const HttpResponse response = client->perform(request_for(HttpMethod::kGet, kProbedName), std::move(stop));
  const std::string what = fmt::format("{}/{}", url, kProbedName);
  if (is_from_elsewhere(response) && (options.is_known || response.status == 200)) throw_from_elsewhere(response, what);
  if (response.status != 200 && response.status != 404) throw_for_status(response, what);
  const auto kind = response.header(kServerHeader);
  return std::make_shared<HttpStore>(url, !kind.empty(), kind == "writable", options.is_known, std::move(client));
}

}  // namespace isr
