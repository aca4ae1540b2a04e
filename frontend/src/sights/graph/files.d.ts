// A built file of its own, told by its address.
declare module "*?url" {
  const address: string;
  export default address;
}
