#include "suffix.h"

#include <algorithm>

namespace openarctic {

namespace {
constexpr size_t kAllocation = 16;  // bytes that an allocation takes beside what it holds
}

// The tokens so far, and the nodes of its suffixes of length 0, 1, ... that occur elsewhere too.
struct SuffixTree::Text {
  std::vector<uint32_t> tokens;
  std::vector<Node*> ends;
};

// A string, by its last token.
struct SuffixTree::Node {
  enum Kind : uint8_t { kLeaf, kOne, kTable };

  uint32_t token;
  uint32_t count = 1;
  Node* best = nullptr;  // the child with the highest count, at equality the lower token; null: none, or to be looked for
  union {
    Text* text;    // leaf: the string occurs once, and goes on at text->tokens[at]
    Node* only;    // one child, or none
    Node** table;  // children by the hash of their token, 1 << log of them, null where none
  };
  union {
    uint32_t at;
    uint32_t size;  // children
  };
  Kind kind;
  uint8_t log = 0;

  Node(uint32_t token, Text* text, uint32_t at) : token(token), text(text), at(at), kind(kLeaf) {}

  size_t capacity() const { return size_t(1) << log; }
  size_t place(uint32_t token) const { return token * 2654435761u >> (32 - log); }  // Fibonacci hashing

  Node* child(uint32_t token) const {
    if (kind == kOne) return only && only->token == token ? only : nullptr;
    for (size_t i = place(token);; i = (i + 1) & (capacity() - 1))
      if (!table[i] || table[i]->token == token) return table[i];
  }

  template <class Visit>
  void each(Visit visit) const {
    if (kind == kOne && only) visit(only);
    if (kind == kTable)
      for (size_t i = 0; i < capacity(); i++)
        if (table[i]) visit(table[i]);
  }

  void put(Node* node) {  // into a table with room
    size_t i = place(node->token);
    while (table[i]) i = (i + 1) & (capacity() - 1);
    table[i] = node;
  }

  void take(uint32_t token) {  // out of a table; what stood behind moves up
    const size_t mask = capacity() - 1;
    size_t hole = place(token);
    while (table[hole]->token != token) hole = (hole + 1) & mask;
    for (size_t i = (hole + 1) & mask; table[i]; i = (i + 1) & mask) {
      if (((i - place(table[i]->token)) & mask) < ((i - hole) & mask)) continue;  // it may not stand before its place
      table[hole] = table[i];
      hole = i;
    }
    table[hole] = nullptr;
  }

  bool better_than(const Node* other) const {
    return !other || count > other->count || (count == other->count && token < other->token);
  }

  Node* find_best() {
    if (!best) each([&](Node* child) { best = child->better_than(best) ? child : best; });
    return best;
  }
};

const size_t SuffixTree::kNodeBytes = sizeof(Node) + kAllocation;

SuffixTree::SuffixTree(int depth) : depth_(depth), root_(new Node(0, nullptr, 0)) {
  root_->kind = Node::kOne;
  root_->only = nullptr;
}

SuffixTree::~SuffixTree() { drop(root_); }

void SuffixTree::append(int64_t id, const std::vector<uint32_t>& tokens) {
  std::unique_ptr<Text>& text = texts_[id];
  if (!text) {
    text = std::make_unique<Text>();
    text->ends.reserve(depth_ + 1);
    text->ends.push_back(root_);
    bytes_ += text_bytes(*text);
  }
  bytes_ -= text_bytes(*text);
  for (uint32_t token : tokens) push(*text, token);
  bytes_ += text_bytes(*text);
}

void SuffixTree::push(Text& text, uint32_t token) {
  text.tokens.push_back(token);
  scratch_.assign(1, root_);
  for (Node* node : text.ends) {
    Node* child = node->child(token);
    if (child) {
      if (child->kind == Node::kLeaf) expand(child, int(scratch_.size()));
      child->count++;
      scratch_.push_back(child);
    } else {
      child = add(node, token, &text, uint32_t(text.tokens.size()));
    }
    if (node->best && child->better_than(node->best)) node->best = child;
  }
  if (scratch_.size() > size_t(depth_)) scratch_.pop_back();  // what has reached the limit goes no deeper
  text.ends.assign(scratch_.begin(), scratch_.end());
}

// A leaf becomes a node with the one child that its text goes on with.
void SuffixTree::expand(Node* leaf, int depth) {
  Text* text = leaf->text;
  const uint32_t at = leaf->at;
  leaf->kind = Node::kOne;
  leaf->only = nullptr;
  if (depth == depth_) return;
  if (at < text->tokens.size())
    add(leaf, text->tokens[at], text, at + 1);
  else
    text->ends.push_back(leaf);  // another text ends here, and grows from here
}

void SuffixTree::remove(int64_t id) {
  const auto found = texts_.find(id);
  if (found == texts_.end()) return;
  const std::unique_ptr<Text> text = std::move(found->second);
  texts_.erase(found);
  bytes_ -= text_bytes(*text);
  const std::vector<uint32_t>& tokens = text->tokens;
  for (size_t start = 0; start < tokens.size(); start++)
    forget(tokens.data() + start, std::min(tokens.size() - start, size_t(depth_)));
}

// One occurrence less of every beginning of the string.
void SuffixTree::forget(const uint32_t* tokens, size_t size) {
  Node* node = root_;
  Node* single = nullptr;  // the shortest of the beginnings that occur once now
  for (size_t i = 0; i < size && node->kind != Node::kLeaf; i++) {
    Node* child = node->child(tokens[i]);
    child->count--;
    if (node->best == child) node->best = nullptr;
    if (!child->count) {
      unlink(node, child);
      drop(child);
      break;
    }
    if (child->count == 1 && !single) single = child;
    node = child;
  }
  if (single) collapse(single);
}

// What occurs once becomes a leaf again, unless it ends with a text or at the depth limit.
void SuffixTree::collapse(Node* node) {
  uint32_t levels = 0;
  Node* bottom = node;
  while (bottom->kind != Node::kLeaf) {
    bottom = bottom->find_best();
    if (!bottom) return;
    levels++;
  }
  Text* text = bottom->text;
  const uint32_t at = bottom->at - levels;
  Node* child = node->find_best();
  if (!child) return;
  unlink(node, child);
  drop(child);
  node->best = nullptr;
  node->kind = Node::kLeaf;
  node->text = text;
  node->at = at;
}

size_t SuffixTree::count(const std::vector<uint32_t>& tokens) const {
  const Node* node = root_;
  for (size_t i = 0; i < tokens.size(); i++) {
    if (node->kind == Node::kLeaf) {  // one occurrence: it goes on in its text
      const std::vector<uint32_t>& text = node->text->tokens;
      const size_t left = tokens.size() - i;
      return text.size() >= node->at + left && std::equal(tokens.begin() + i, tokens.end(), text.begin() + node->at);
    }
    node = node->child(tokens[i]);
    if (!node) return 0;
  }
  return tokens.empty() ? 0 : node->count;
}

SuffixDraft SuffixTree::draft(int64_t id, int limit, double alpha, double offset, double floor) const {
  SuffixDraft best, draft;
  const auto found = texts_.find(id);
  if (found == texts_.end()) return best;
  const std::vector<Node*>& ends = found->second->ends;
  for (int length = int(ends.size()) - 1; length > 0; length--) {
    Node* node = ends[length];
    const int budget = std::min({limit, int(alpha * length + offset), depth_ - length});
    if (budget <= 0 || !node->find_best()) continue;
    if (budget * (double(node->best->count) / node->count) <= best.score) continue;  // nothing better can come of it
    follow(node, budget, floor, &draft);
    if (draft.score <= best.score) continue;
    draft.match_length = length;
    std::swap(best, draft);
  }
  return best;
}

// The most frequent continuation of a node.
void SuffixTree::follow(Node* node, int budget, double floor, SuffixDraft* out) const {
  out->tokens.clear();
  out->probabilities.clear();
  out->score = 0;
  double p = 1;
  uint32_t at = 0;
  const Text* text = nullptr;  // where a string that occurs once goes on
  for (int i = 0; i < budget; i++) {
    uint32_t token;
    if (!text && node->kind == Node::kLeaf) text = node->text, at = node->at;
    if (text) {
      if (at == text->tokens.size()) return;
      token = text->tokens[at++];
    } else {
      Node* child = node->find_best();
      if (!child) return;
      p *= double(child->count) / node->count;
      if (p < floor) return;
      token = child->token;
      node = child;
    }
    out->tokens.push_back(token);
    out->probabilities.push_back(p);
    out->score += p;
  }
}

SuffixTree::Node* SuffixTree::add(Node* parent, uint32_t token, Text* text, uint32_t at) {
  Node* node = new Node(token, text, at);
  nodes_++;
  bytes_ += kNodeBytes;
  if (parent->kind == Node::kOne) {
    if (!parent->only) {
      parent->only = node;
      return node;
    }
    Node* first = parent->only;
    parent->kind = Node::kTable;
    parent->log = 2;
    parent->size = 1;
    parent->table = new Node*[parent->capacity()]();
    bytes_ += table_bytes(*parent);
    parent->put(first);
  } else if ((parent->size + 1) * 4 > parent->capacity() * 3) {
    resize(parent, parent->log + 1);
  }
  parent->put(node);
  parent->size++;
  return node;
}

void SuffixTree::resize(Node* node, int log) {
  Node** old = node->table;
  const size_t capacity = node->capacity();
  bytes_ -= table_bytes(*node);
  node->log = uint8_t(log);
  node->table = new Node*[node->capacity()]();
  bytes_ += table_bytes(*node);
  for (size_t i = 0; i < capacity; i++)
    if (old[i]) node->put(old[i]);
  delete[] old;
}

// The child is the parent's no more.
void SuffixTree::unlink(Node* parent, Node* child) {
  if (parent->best == child) parent->best = nullptr;
  if (parent->kind == Node::kOne) {
    parent->only = nullptr;
    return;
  }
  parent->take(child->token);
  if (--parent->size > 1) {
    if (parent->log > 2 && parent->size * 4 < parent->capacity()) resize(parent, parent->log - 1);
    return;
  }
  Node* last = nullptr;
  parent->each([&](Node* one) { last = one; });
  bytes_ -= table_bytes(*parent);
  delete[] parent->table;
  parent->kind = Node::kOne;
  parent->only = last;
}

// Frees a node and all below it.
void SuffixTree::drop(Node* node) {
  if (node->kind != Node::kLeaf) node->each([&](Node* child) { drop(child); });
  if (node->kind == Node::kTable) {
    bytes_ -= table_bytes(*node);
    delete[] node->table;
  }
  if (node != root_) {
    nodes_--;
    bytes_ -= kNodeBytes;
  }
  delete node;
}

size_t SuffixTree::table_bytes(const Node& node) { return node.capacity() * sizeof(Node*) + kAllocation; }

size_t SuffixTree::text_bytes(const Text& text) {
  constexpr size_t kEntry = 4 * sizeof(void*);  // in texts_
  return sizeof(Text) + text.tokens.capacity() * sizeof(uint32_t) + text.ends.capacity() * sizeof(Node*) + kEntry + 4 * kAllocation;
}

}  // namespace openarctic
