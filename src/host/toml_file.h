#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>

#include "host/paths.h"

/// Reads TOML text and makes small edits that keep everything else, including comments. config.h knows the meaning of
/// the keys.
namespace isr {

/// Scalars by dotted key ("repo.home.url"), each with its line.
struct TomlValue {
  std::string text;  ///< the text of a string, an integer or a boolean
  std::size_t line = 0;
};
using TomlValues = std::map<std::string, TomlValue>;

/// nullopt when absent. Error{kUsage} naming the file and the cause when it is a
/// directory, above 1 MiB, owned by another user, or others may write it; {kIo}.
std::optional<std::string> read_settings_file(const fs::path& path);
/// Error{kUsage} "PATH:LINE: …" for text that is not TOML, and for dates, floats and arrays.
TomlValues parse_settings(const std::string& text, const std::string& path);

/// `text` with `key` ("cache.limit") set to a string. Error{kUsage} when the file has a form that this function cannot
/// edit.
std::string edit_setting(const std::string& text, const std::string& path, const std::string& key,
                         const std::string& value);
/// `text` without the table [name] and its keys. Errors as above.
std::string remove_table(const std::string& text, const std::string& path, const std::string& name);

}  // namespace isr
