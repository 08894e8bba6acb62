/* SPDX-License-Identifier: Apache-2.0 */
/* What the spawn workload executes: nothing. Linked statically, so that executing it is as cheap as it can be. */
int main(void)
{
	return 0;
}
