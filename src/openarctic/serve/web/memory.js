// What the browser keeps for us, in the tab or for good. A browser may keep nothing at all (private windows, a policy, a full
// disk): then the page goes on with what it remembers itself until it is closed.
class Memory {
  constructor(storageOf) {
    this.storageOf = storageOf; // naming a storage can throw already
    this.own = new Map();
  }

  get(name) {
    if (this.own.has(name)) return this.own.get(name);
    try {
      return this.storageOf().getItem(name);
    } catch {
      return null;
    }
  }

  set(name, value) {
    this.own.delete(name);
    try {
      this.storageOf().setItem(name, value);
    } catch {
      this.own.set(name, value);
    }
  }

  // An object that was kept as JSON; `otherwise` where there is none that can be read.
  object(name, otherwise) {
    try {
      return JSON.parse(this.get(name)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  remove(name) {
    this.own.delete(name);
    try {
      this.storageOf().removeItem(name);
    } catch {
      // nothing was kept
    }
  }
}

export const inTab = new Memory(() => sessionStorage);
export const forGood = new Memory(() => localStorage);
