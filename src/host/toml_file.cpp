// Edits work on lines. The parser gives the position of an existing value; a new key goes below its table's header. The
// result of every edit is parsed and compared with the intended one, so a file of unusual shape is refused, never
// damaged.
#include "host/toml_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

constexpr std::uint64_t kMaxFile = 1U << 20U;

[[noreturn]] void refuse_file(const fs::path& path, std::string_view why) {
  throw Error(ErrorKind::kUsage, fmt::format("{}: {}", path.string(), why));
}

[[noreturn]] void refuse_line(const std::string& path, std::size_t line, std::string_view why) {
  throw Error(ErrorKind::kUsage, fmt::format("{}:{}: {}", path, line, why));
}

[[noreturn]] void refuse_edit(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: cannot change {}, because of the way this file is written", path, what),
              {"change it in an editor"});
}

toml::table parse(const std::string& text, const std::string& path) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    refuse_line(path, error.source().begin.line, error.description());
  }
}

void collect(const toml::table& table, const std::string& prefix, const std::string& path, TomlValues& out) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    const std::size_t line = node.source().begin.line;
    if (const auto* inner = node.as_table()) {
      collect(*inner, key + ".", path, out);
    } else if (const auto* text = node.as_string()) {
      out[key] = {text->get(), line};
    } else if (const auto* number = node.as_integer()) {
      out[key] = {std::to_string(number->get()), line};
    } else if (const auto* truth = node.as_boolean()) {
      out[key] = {truth->get() ? "true" : "false", line};
    } else {
      refuse_line(path, line, fmt::format("{}: expected a string, a whole number, true or false", key));
    }
  }
}

std::string quoted(const std::string& value) {
  std::string out = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + '\n';
  return text;
}

std::string trimmed(std::string_view line) {
  const auto first = line.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return std::string(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
}

bool is_header(const std::string& line) { return trimmed(line).starts_with('['); }

/// The number of the line "[name]", counted from 0.
std::optional<std::size_t> find_header(const std::vector<std::string>& lines, const std::string& name) {
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (trimmed(lines[i].substr(0, lines[i].find('#'))) == fmt::format("[{}]", name)) return i;
  }
  return std::nullopt;
}

/// The byte offset of a column, which the parser counts in code points from 1.
std::size_t byte_offset(const std::string& line, std::size_t column) {
  std::size_t offset = 0;
  for (std::size_t at = 1; at < column && offset < line.size(); ++at) {
    ++offset;
    while (offset < line.size() && (static_cast<unsigned char>(line[offset]) & 0xC0U) == 0x80) ++offset;
  }
  return offset;
}

/// Replaces the value of a key. Returns false when the key is not there.
bool replace_value(const std::string& text, const std::string& path, const std::string& key, const std::string& value,
                   std::vector<std::string>& lines) {
  const toml::table table = parse(text, path);
  const auto node = table.at_path(key);
  if (!node) return false;
  const toml::source_region region = node.node()->source();
  if (region.begin.line != region.end.line || region.begin.line > lines.size()) refuse_edit(path, key);
  std::string& line = lines[region.begin.line - 1];
  const std::size_t begin = byte_offset(line, region.begin.column);
  const std::size_t end = byte_offset(line, region.end.column);
  line.replace(begin, end - begin, quoted(value));
  return true;
}

}  // namespace

std::optional<std::string> read_settings_file(const fs::path& path) {
  // A settings file may be a symlink into a directory of dotfiles.
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error == std::errc::no_such_file_or_directory) return std::nullopt;
  if (error) throw Error(ErrorKind::kUsage, fmt::format("{}: {}", path.string(), error.message()));
  const auto fd = open_if_exists(real, O_RDONLY | O_NONBLOCK);
  if (!fd) return std::nullopt;
  struct stat info {};
  if (::fstat(fd->get(), &info) != 0) throw_errno(path.string(), errno);
  if (S_ISDIR(info.st_mode)) refuse_file(path, "is a directory, not a settings file");
  if (!S_ISREG(info.st_mode)) refuse_file(path, "is not a regular file");
  if (static_cast<std::uint64_t>(info.st_size) > kMaxFile) refuse_file(path, "is larger than 1 MiB");
  if (info.st_uid != ::getuid() && info.st_uid != 0) refuse_file(path, "belongs to another user");
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: other users can write to it", path.string()),
                {fmt::format("chmod go-w {}", path.string())});
  }
  const Bytes bytes = read_file(real, kMaxFile);
  return std::string(as_text(bytes));
}

TomlValues parse_settings(const std::string& text, const std::string& path) {
  TomlValues values;
  collect(parse(text, path), "", path, values);
  return values;
}

std::string edit_setting(const std::string& text, const std::string& path, const std::string& key,
                         const std::string& value) {
  std::vector<std::string> lines = lines_of(text);
  TomlValues meant = parse_settings(text, path);
  if (!replace_value(text, path, key, value, lines)) {
    const auto dot = key.rfind('.');
    const std::string line = fmt::format("{} = {}", key.substr(dot == std::string::npos ? 0 : dot + 1), quoted(value));
    if (dot == std::string::npos) {
      lines.insert(lines.begin(), line);
    } else if (const auto header = find_header(lines, key.substr(0, dot))) {
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(*header) + 1, line);
    } else {
      if (!lines.empty() && !lines.back().empty()) lines.emplace_back();
      lines.push_back(fmt::format("[{}]", key.substr(0, dot)));
      lines.push_back(line);
    }
  }
  meant[key].text = value;
  std::string edited = joined(lines);
  TomlValues result;
  try {
    result = parse_settings(edited, path);
  } catch (const Error&) {
    refuse_edit(path, key);
  }
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first && a.second.text == b.second.text; };
  if (!std::equal(meant.begin(), meant.end(), result.begin(), result.end(), same)) refuse_edit(path, key);
  return edited;
}

std::string remove_table(const std::string& text, const std::string& path, const std::string& name) {
  std::vector<std::string> lines = lines_of(text);
  const auto header = find_header(lines, name);
  if (!header) refuse_edit(path, fmt::format("[{}]", name));
  std::size_t end = *header + 1;
  while (end < lines.size() && !is_header(lines[end])) ++end;
  // Comments and blank lines just above the next header belong to that header.
  while (end > *header + 1 && (trimmed(lines[end - 1]).empty() || trimmed(lines[end - 1]).starts_with('#'))) --end;
  lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(*header), lines.begin() + static_cast<std::ptrdiff_t>(end));
  std::string edited = joined(lines);
  TomlValues meant = parse_settings(text, path);
  std::erase_if(meant, [&](const auto& value) { return value.first.starts_with(name + "."); });
  TomlValues result;
  try {
    result = parse_settings(edited, path);
  } catch (const Error&) {
    refuse_edit(path, fmt::format("[{}]", name));
  }
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first && a.second.text == b.second.text; };
  if (!std::equal(meant.begin(), meant.end(), result.begin(), result.end(), same)) {
    refuse_edit(path, fmt::format("[{}]", name));
  }
  return edited;
}

}  // namespace isr
