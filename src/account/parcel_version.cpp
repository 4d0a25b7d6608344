// The payload of a parcel's head. Its owner signed it, but its fields reach file names, allocations and QEMU. So every
// field is checked, and unknown fields are refused, not dropped.
#include "account/parcel_version.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/json_object.h"
#include "image/boot_pack.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "isr1-version";
constexpr std::size_t kMaxPayload = 256U << 10U;
constexpr std::size_t kMaxImages = kMaxDisks + 3;  // plus memory, device state and boot pack
constexpr std::size_t kMaxImageName = 32;
// Makes sure that every machine can have a boot pack.
static_assert(kMaxDisks + 1 <= kMaxBootImages && kMaxImageName <= kMaxBootImageName);
constexpr std::size_t kMaxMessage = 4096;
constexpr std::size_t kMaxCopyOf = 256;

[[noreturn]] void fail(std::string_view what) {
  throw Error(ErrorKind::kCorrupt, fmt::format("a version's description: {}", what));
}

void expect_fields(const json& object, const std::set<std::string>& required, const std::set<std::string>& optional) {
  if (!object.is_object()) fail("not a JSON object");
  for (const auto& [name, value] : object.items()) {
    if (!required.contains(name) && !optional.contains(name)) fail("it has an unknown field");
  }
  for (const auto& name : required) {
    if (!object.contains(name)) fail(fmt::format("\"{}\" is absent", name));
  }
}

std::string text_of(const json& object, const char* name, std::size_t max_size) {
  const json& value = object.at(name);
  if (!value.is_string()) fail(fmt::format("\"{}\" is not text", name));
  auto text = value.get<std::string>();
  if (text.size() > max_size) fail(fmt::format("\"{}\" is too long", name));
  return text;
}

std::uint64_t number_of(const json& object, const char* name, std::uint64_t min, std::uint64_t max) {
  const json& value = object.at(name);
  if (!value.is_number_unsigned()) fail(fmt::format("\"{}\" is not a whole number", name));
  const auto number = value.get<std::uint64_t>();
  if (number < min || number > max) fail(fmt::format("\"{}\" is out of range", name));
  return number;
}

/// The name becomes the file NAME.raw: lower-case letters, digits and '-', a letter first.
bool is_image_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxImageName && name[0] >= 'a' && name[0] <= 'z' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

std::string root_to_text(const ChunkRef& root) {
  ByteWriter bytes;
  write_ref(root, bytes);
  return to_base64(bytes.bytes());
}

ChunkRef root_from_text(const json& in) {
  const auto bytes = from_base64(text_of(in, "root", 2 * kRefSize));
  if (!bytes) fail("a root is not valid base64");
  ByteReader reader(*bytes, "the root of an image");
  const ChunkRef root = read_ref(reader);
  reader.expect_end();
  return root;
}

/// The newest first. A patch has a footer, so it is never empty or all zero.
std::vector<TreeRoot> patches_from_json(const json& in) {
  if (!in.is_array() || in.empty() || in.size() > kMaxPatches) fail("the number of patches of an image is wrong");
  std::vector<TreeRoot> patches;
  for (const json& value : in) {
    expect_fields(value, {"size", "root"}, {});
    const TreeRoot patch{number_of(value, "size", kPatchFooterSize, kMaxPatchSize), root_from_text(value)};
    if (patch.root.is_zero()) fail("a patch of an image is empty");
    patches.push_back(patch);
  }
  return patches;
}

json image_to_json(const VersionImage& image) {
  json out{{"name", image.name},
           {"role", to_name(image.role)},
           {"size", image.content.size()},
           {"root", root_to_text(image.content.tree.root)}};
  if (image.original_size != 0) out["original_size"] = image.original_size;
  for (const TreeRoot& patch : image.content.patches) {
    out["patches"].push_back({{"size", patch.size}, {"root", root_to_text(patch.root)}});
  }
  return out;
}

std::uint64_t padded(std::uint64_t size) { return (size + kDiskSizeUnit - 1) / kDiskSizeUnit * kDiskSizeUnit; }

/// Only a disk may have one, and the difference to the size is only padding.
std::uint64_t original_size_of(const json& in, const VersionImage& image) {
  const std::uint64_t original = number_of(in, "original_size", 1, image.content.size() - 1);
  if (!is_disk(image.role) || padded(original) != image.content.size())
    fail("an image has an impossible original size");
  return original;
}

VersionImage image_from_json(const json& in) {
  expect_fields(in, {"name", "role", "size", "root"}, {"original_size", "patches"});
  VersionImage image;
  image.name = text_of(in, "name", 32);
  if (!is_image_name(image.name)) fail("an image has a name that is not allowed");
  const auto role = role_from_name(text_of(in, "role", 16));
  if (!role) fail("an image has an unknown role");
  image.role = *role;
  if (!may_be_called(image.role, image.name))
    fail(fmt::format("the name of image \"{}\" belongs to another role", image.name));
  image.content.tree.size = number_of(in, "size", 1, kMaxImageSize);
  if (in.contains("original_size")) image.original_size = original_size_of(in, image);
  image.content.tree.root = root_from_text(in);
  if (in.contains("patches")) {
    if (!rules_of(image.role).may_have_patches)
      fail(fmt::format("an image of role {} has patches", to_name(image.role)));
    image.content.patches = patches_from_json(in.at("patches"));
  }
  return image;
}

std::vector<VersionImage> images_from_json(const json& in) {
  if (!in.is_array() || in.empty() || in.size() > kMaxImages) fail("the number of images is wrong");
  std::vector<VersionImage> images;
  std::set<std::string> names;
  for (const json& value : in) {
    images.push_back(image_from_json(value));
    if (!names.insert(images.back().name).second) fail("two images have the same name");
  }
  return images;
}

[[noreturn]] void refuse_absent(const ParcelEntry& parcel, std::uint64_t n, std::uint64_t newest) {
  throw Error(ErrorKind::kNotFound, fmt::format("{} has no version {}; the newest is {}", parcel.name, n, newest),
              {fmt::format("isr log {}", parcel.name)});
}

[[noreturn]] void refuse_offline(const Remote& remote, const ParcelEntry& parcel, const VersionChoice& choice) {
  const std::string which = choice.number          ? fmt::format("version {}", *choice.number)
                            : !choice.fork.empty() ? "fork " + choice.fork
                            : choice.back != 0     ? fmt::format("latest~{}", choice.back)
                                                   : std::string("a version");
  throw Error(ErrorKind::kOffline, fmt::format("this host does not know {} of {}, and {} cannot be reached", which,
                                               parcel.name, remote.entry.name));
}

StoredHead load_fork(Chain chain, const ParcelEntry& parcel, StoredHead newest, const std::string& name) {
  auto fork = chain.read_fork(name);
  if (!fork) {
    throw Error(ErrorKind::kNotFound, fmt::format("{} has no fork {}", parcel.name, name),
                {fmt::format("isr log {}    lists versions and forks", parcel.name)});
  }
  chain.verify_base(std::move(newest), fork->head.prev_n(), fork->head.prev);
  return std::move(*fork);
}

StoredHead go_back(Chain chain, const ParcelEntry& parcel, StoredHead newest, std::uint64_t count) {
  const std::uint64_t last = newest.head.n;
  StoredHead at = std::move(newest);
  for (std::uint64_t back = 0; back < count; ++back) {
    auto before = chain.before(at);
    if (!before) {
      throw Error(ErrorKind::kNotFound,
                  fmt::format("{} has {} versions before its newest, which is {}", parcel.name, back, last),
                  {fmt::format("isr log {}", parcel.name)});
    }
    at = std::move(*before);
  }
  return at;
}

StoredHead load_head(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                     const std::stop_token& stop) {
  const auto& n = choice.number;
  auto newest = account.newest_head(parcel.chain(), stop);
  const bool is_newest = choice.is_newest() || (newest && n == newest->head.n);
  if (account.remote.offline() && (!is_newest || !newest)) refuse_offline(account.remote, parcel, choice);
  if (!newest) throw Error(ErrorKind::kNotFound, fmt::format("{} has no version yet", parcel.name));
  if (is_newest) return std::move(*newest);
  Chain chain = account.chain(parcel.chain(), stop);
  if (!choice.fork.empty()) return load_fork(std::move(chain), parcel, std::move(*newest), choice.fork);
  if (!n) return go_back(std::move(chain), parcel, std::move(*newest), choice.back);
  const std::uint64_t last = newest->head.n;
  auto wanted = chain.ancestor(std::move(*newest), *n);
  if (!wanted) refuse_absent(parcel, *n, last);
  return std::move(*wanted);
}

}  // namespace

VersionImage make_disk(std::string name, std::uint64_t size) {
  VersionImage disk{std::move(name), ImageRole::kUser, TreeRoot{padded(size), {}}};
  if (disk.content.size() != size) disk.original_size = size;
  return disk;
}

const VersionImage* ParcelVersion::find(std::string_view name) const {
  const auto found = std::find_if(images.begin(), images.end(), [&](const auto& image) { return image.name == name; });
  return found == images.end() ? nullptr : &*found;
}

Bytes encode_version(const ParcelVersion& version) {
  if (version.message.size() > kMaxMessage) {
    throw Error(ErrorKind::kUsage, fmt::format("the message is longer than {} bytes", kMaxMessage));
  }
  json out{{"format", kFormat},
           {"images", json::array()},
           {"vm", vm_settings_to_json(version.vm)},
           {"message", version.message},
           {"added_bytes", version.added_bytes},
           {"copy_of", version.copy_of}};
  for (const VersionImage& image : version.images) out["images"].push_back(image_to_json(image));
  if (version.stamp) out["stamp"] = vm_stamp_to_json(*version.stamp);
  // A message may come from a file name or a pipe. Invalid UTF-8 becomes U+FFFD.
  return to_bytes(as_bytes(out.dump(-1, ' ', false, json::error_handler_t::replace)));
}

ParcelVersion parse_version(ByteView payload) {
  if (payload.size() > kMaxPayload) fail("it is too large");
  json in;
  try {
    in = parse_json_object(as_text(payload), "it");
  } catch (const Error&) {
    fail("it is not valid JSON");
  }
  expect_fields(in, {"format", "images", "vm", "message", "added_bytes", "copy_of"}, {"stamp"});
  if (text_of(in, "format", 32) != kFormat) {
    throw Error(ErrorKind::kUnsupported, "a version's description has a format that this version of isr does not know",
                {"install a newer version of isr"});
  }
  ParcelVersion version;
  version.images = images_from_json(in.at("images"));
  version.vm = vm_settings_from_json(in.at("vm"));
  if (in.contains("stamp")) version.stamp = vm_stamp_from_json(in.at("stamp"));
  version.message = text_of(in, "message", 3 * kMaxMessage);  // each bad byte became three bytes
  version.added_bytes = number_of(in, "added_bytes", 0, ~std::uint64_t{0});
  version.copy_of = text_of(in, "copy_of", kMaxCopyOf);
  return version;
}

namespace {

void check_memory(const ParcelVersion& version) {
  const bool memory = version.suspended();
  if (memory != (version.find(ImageRole::kDevice) != nullptr) || memory != version.stamp.has_value()) {
    fail("memory, device state and their stamp must be there together");
  }
  if (!memory && version.find(ImageRole::kBootPack) != nullptr) fail("a boot pack without memory");
}

/// Throws when a reader would refuse this version. Nobody could open the parcel if it were published.
void check_readable(ByteView payload) {
  try {
    check_memory(parse_version(payload));
  } catch (const Error& error) {
    throw Error(ErrorKind::kBug, fmt::format("the new version could not be read again: {}", error.what()));
  }
}

}  // namespace

LoadedVersion load_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                           const std::stop_token& stop) {
  LoadedVersion loaded;
  loaded.head = load_head(account, parcel, choice, stop);
  loaded.fork = choice.fork;
  loaded.version = open_version(parcel, loaded.head.head);
  return loaded;
}

ParcelVersion open_version(const ParcelEntry& parcel, const Head& head) {
  const auto key = parcel.epoch_keys.find(head.epoch);
  if (key == parcel.epoch_keys.end()) {
    throw Error(ErrorKind::kDenied, fmt::format("{} version {}: its key (epoch {}) is not in your profile", parcel.name,
                                                head.n, head.epoch));
  }
  ParcelVersion version = parse_version(open_payload(key->second, head));
  check_memory(version);
  return version;
}

Bytes make_head(const Account& account, const ParcelEntry& parcel, const HeadPlace& place,
                const ParcelVersion& version) {
  Head head;
  head.chain = parcel.chain();
  head.n = place.n;
  head.prev = place.prev;
  head.skipped = place.skipped;
  head.time = wall_now();
  head.host = account.host.holder.host;
  head.epoch = parcel.epoch();
  for (const VersionImage& image : version.images) {
    if (!image.content.tree.root.is_zero()) head.roots.push_back(image.content.tree.root.cid);
    for (const TreeRoot& patch : image.content.patches) head.roots.push_back(patch.root.cid);
  }
  const Bytes payload = encode_version(version);
  check_readable(payload);
  head.sealed = seal_payload(parcel.epoch_keys.at(head.epoch), head.chain, head.n, head.epoch, payload);
  return encode_head(std::move(head), account.identity.signing);
}

}  // namespace isr
