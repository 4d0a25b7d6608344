// A failure of the store is logged with its cause. The answer does not contain the cause, because the text may name
// paths of this machine.
#include "server/answer.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "repository/http_message.h"

namespace isr {
namespace {

constexpr std::size_t kMaxTarget = 2048;

bool is_blob_name(std::string_view name) {
  try {
    check_blob_name(name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void add_age(ServerAnswer& answer, const std::optional<std::chrono::seconds>& age) {
  if (age) answer.headers.emplace_back("Last-Modified", to_http_date(wall_now() - *age));
}

ServerAnswer blob_answer(const std::string& name, const std::optional<std::chrono::seconds>& age) {
  ServerAnswer answer;
  answer.status = 200;
  answer.headers.emplace_back("Content-Type", "application/octet-stream");
  answer.headers.emplace_back("Accept-Ranges", "bytes");
  // Among other blobs "latest" changes, and a cached 404 would hide later blobs.
  answer.headers.emplace_back("Cache-Control",
                              name.starts_with("objects/") ? "public, max-age=31536000, immutable" : "no-cache");
  add_age(answer, age);
  return answer;
}

ServerAnswer get_blob(const ServerRequest& request, const std::string& name, BlobStore& store) {
  auto blob = store.get(name);
  if (!blob) return refusal(404, "there is no blob of this name");
  ServerAnswer answer = blob_answer(name, blob->age);
  const std::uint64_t size = blob->bytes.size();
  const auto range = parse_range(request.range, size);
  if (std::holds_alternative<NotSatisfiable>(range)) {
    answer = refusal(416, "the range begins after the end of the blob");
    answer.headers.emplace_back("Content-Range", fmt::format("bytes */{}", size));
    add_age(answer, blob->age);
  } else if (const auto* part = std::get_if<PartOfBlob>(&range)) {
    answer.status = 206;
    answer.headers.emplace_back("Content-Range", fmt::format("bytes {}-{}/{}", part->first, part->last, size));
    const auto begin = blob->bytes.begin();
    answer.body.assign(begin + static_cast<std::ptrdiff_t>(part->first),
                       begin + static_cast<std::ptrdiff_t>(part->last) + 1);
  } else {
    answer.body = std::move(blob->bytes);
  }
  return answer;
}

ServerAnswer head_blob(const std::string& name, BlobStore& store) {
  const auto size = store.stat(name);
  const auto blob = size ? store.get(name, ByteRange{0, 0}) : std::nullopt;  // to get its age
  if (!blob) return refusal(404, "there is no blob of this name");
  ServerAnswer answer = blob_answer(name, blob->age);
  answer.head_length = *size;
  return answer;
}

ServerAnswer put_blob(const ServerRequest& request, const std::string& name, BlobStore& store) {
  if (const auto cid = cid_from_object_name(name); cid && cid_of(request.body) != *cid) {
    return refusal(400, "the name of an object must be the SHA-256 of its bytes");
  }
  ServerAnswer answer;
  if (request.if_none_match.empty()) {
    store.put_hint(name, request.body);
    answer.status = 204;
    return answer;
  }
  if (store.put_new(name, request.body) == PutResult::kExists) return refusal(412, "the name is taken");
  answer.status = 201;
  return answer;
}

ServerAnswer list_blobs(const ListTarget& target, BlobStore& store) {
  const auto page = store.list_page(target.prefix, target.after);
  if (!page) return refusal(501, "this store cannot list names");
  ServerAnswer answer;
  answer.status = 200;
  answer.headers.emplace_back("Content-Type", "text/plain; charset=utf-8");
  answer.headers.emplace_back("Cache-Control", "no-store");
  answer.body = to_bytes(as_bytes(encode_list_page(*page)));
  return answer;
}

ServerAnswer answer_blob(const ServerRequest& request, const std::string& name, BlobStore& store) {
  switch (request.method) {
    case ServerMethod::kGet:
      return get_blob(request, name, store);
    case ServerMethod::kHead:
      return head_blob(name, store);
    case ServerMethod::kPut:
      return put_blob(request, name, store);
    case ServerMethod::kDelete: {
      if (!store.remove(name)) return refusal(404, "there is no blob of this name");
      ServerAnswer answer;
      answer.status = 204;
      return answer;
    }
    case ServerMethod::kOther:
      break;
  }
  return refusal(405, "this server does not support the method");
}

ServerAnswer answer_failure(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kIo:  // a full or failing disk: repeating the request at once does not help
      return refusal(507, "the server has no room, or its disk fails; its log says more");
    case ErrorKind::kDenied:
      return refusal(403, "the server may not access its own directory; its log says more");
    case ErrorKind::kNotFound:
      return refusal(503, "the server's directory is gone; its log says more");
    case ErrorKind::kUnsupported:
      return refusal(405, "this repository is read-only");
    default:
      return refusal(500, "the server failed; its log says more");
  }
}

ServerAnswer not_allowed(std::string_view why, std::string_view allowed) {
  ServerAnswer answer = refusal(405, why);
  answer.headers.emplace_back("Allow", allowed);
  return answer;
}

std::optional<ServerAnswer> refuse_put(const ServerRequest& request, const std::string& name,
                                       const AnswerOptions& options) {
  if (options.read_only) return not_allowed("this repository is read-only", "GET, HEAD");
  if (name.starts_with("objects/") && !cid_from_object_name(name)) {
    return refusal(400, "an object is named objects/ab/abcd... by 64 lower-case hex digits");
  }
  if (request.if_none_match == "*") return std::nullopt;
  if (request.if_none_match.empty() && name.ends_with("/latest")) return std::nullopt;
  return refusal(428, "this server never overwrites a blob: PUT needs \"If-None-Match: *\"");
}

}  // namespace

ServerAnswer refusal(int status, std::string_view why) {
  ServerAnswer answer;
  answer.status = status;
  answer.headers.emplace_back("Content-Type", "text/plain; charset=utf-8");
  answer.headers.emplace_back("Cache-Control", "no-store");
  answer.body = to_bytes(as_bytes(why));
  answer.body.push_back('\n');
  return answer;
}

std::optional<std::variant<BlobTarget, ListTarget>> parse_target(std::string_view target) {
  constexpr std::string_view kList = "/?list=";
  constexpr std::string_view kAfter = "&after=";
  if (target.starts_with(kList)) {
    target.remove_prefix(kList.size());
    const auto mark = target.find(kAfter);
    ListTarget list;
    list.prefix = target.substr(0, mark);
    if (!list.prefix.ends_with('/') || !is_blob_name(list.prefix + "x")) return std::nullopt;
    if (mark != std::string_view::npos) {
      list.after = target.substr(mark + kAfter.size());
      if (!is_blob_name(list.after)) return std::nullopt;
    }
    return list;
  }
  if (!target.starts_with('/') || !is_blob_name(target.substr(1))) return std::nullopt;
  return BlobTarget{std::string(target.substr(1))};
}

bool is_own_host(std::string_view host, const std::vector<std::string>& names) {
  if (host.starts_with('[')) {
    in6_addr address{};
    const auto bracket = host.find(']');
    return bracket != std::string_view::npos &&
           ::inet_pton(AF_INET6, std::string(host.substr(1, bracket - 1)).c_str(), &address) == 1;
  }
  const std::string name(host.substr(0, host.find(':')));
  in_addr address{};
  return name == "localhost" || ::inet_pton(AF_INET, name.c_str(), &address) == 1 ||
         std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<ServerAnswer> refuse_early(const ServerRequest& request, const AnswerOptions& options) {
  if (request.method == ServerMethod::kOther) {
    return not_allowed("this server does not support the method", "GET, HEAD, PUT, DELETE");
  }
  if (request.target.size() > kMaxTarget) return refusal(414, "the name is too long");
  if (!is_own_host(request.host, options.host_names)) {
    return refusal(
        421, "this server answers to IP addresses and localhost; its operator can add other names with --host-name");
  }
  const auto target = parse_target(request.target);
  if (!target) return refusal(400, "this is not a valid name of a blob");
  const auto* blob = std::get_if<BlobTarget>(&*target);
  if (blob == nullptr) {
    return request.method == ServerMethod::kGet ? std::nullopt
                                                : std::optional(not_allowed("only GET is allowed for a list", "GET"));
  }
  if (request.method == ServerMethod::kPut) return refuse_put(request, blob->name, options);
  if (request.method == ServerMethod::kDelete && (options.read_only || !options.allow_delete)) {
    return refusal(403, "this server does not allow removing");
  }
  return std::nullopt;
}

ServerAnswer answer(const ServerRequest& request, BlobStore& store) noexcept {
  try {
    const auto target = parse_target(request.target);
    if (!target) return refusal(400, "this is not a valid name of a blob");
    if (const auto* list = std::get_if<ListTarget>(&*target)) return list_blobs(*list, store);
    return answer_blob(request, std::get<BlobTarget>(*target).name, store);
  } catch (const Error& error) {
    log::error("serving {}: {}", request.target, error.what());
    return answer_failure(error);
  } catch (const std::exception& error) {
    log::error("serving {}: {}", request.target, error.what());
  }
  return refusal(500, "the server failed; its log says more");
}

}  // namespace isr
